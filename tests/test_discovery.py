"""Methods are found by file name, and so is what they need of calibration."""

from __future__ import annotations

import importlib

import pytest

from mediant import discovery
from mediant.allocation import strategy_of
from mediant.errors import PlanError
from mediant.planning.recipe import load_recipe, recipe_names

KINDS = ("activations", "equalization", "grids", "low_rank", "pruning.patterns", "pruning.scores", "rounding", "scales")


@pytest.mark.parametrize("kind", KINDS)
def test_needs_are_those_that_the_file_says(kind):
    for name in discovery.names(kind):
        module = importlib.import_module(f"mediant.methods.{kind}.{name}")
        assert discovery.needs(kind, {"name": name}) == set(module.NEEDS)


def test_an_unknown_method_is_refused_and_none_needs_nothing():
    assert discovery.needs("rounding", {}) == frozenset()
    with pytest.raises(PlanError, match="no method 'no_such'"):
        discovery.needs("rounding", {"name": "no_such"})


def test_recipes_need_the_hessian_where_their_methods_do():
    needing = {name for name in recipe_names() if "hessian" in strategy_of(load_recipe(name)).needs(load_recipe(name))}
    assert {"default", "gptq", "nested", "lqer", "svd-llm", "sparse-quantize"} <= needing
    assert not {"rtn", "hqq", "svd", "nmf"} & needing
