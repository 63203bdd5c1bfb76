"""Storable rounding: what it refuses, and that it errs as little as scales that are fitted first."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mediant import discovery
from mediant.errors import PlanError
from mediant.forms.quantize.encode import quantize
from mediant.methods.layer import prepare
from mediant.planning.recipe import load_recipe
from mediant.values import RowSpan


def _plan(rounding: str, bits: int = 3, **changes):
    recipe = dataclasses.replace(
        load_recipe("default"), grid={"name": "gaussian_int"}, rounding={"name": rounding}, **changes
    )
    return recipe.tensor_plan((RowSpan(24, bits),))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_it_errs_as_little_as_scales_that_are_fitted_first(bits):
    matrix = np.random.default_rng(0).standard_normal((24, 960)).astype(np.float32)
    errors = [quantize(prepare(matrix, 0, None), _plan(name, bits)).certificate for name in ("storable", "nearest")]
    # 720 groups, of which each errs by 20 % more or less.
    assert errors[0].relative_error < errors[1].relative_error * (1 + 2 * 0.2 / 720**0.5)
    assert errors[0].relative_error <= errors[0].worst_error


@pytest.mark.parametrize(
    "changes", [{"scale_bits": 16}, {"scale": {"name": "absmax"}}, {"grid": {"name": "uniform", "kind": "zero_point"}}]
)
def test_it_refuses_what_it_cannot_store(changes):
    plan = dataclasses.replace(_plan("storable"), **changes)
    with pytest.raises(PlanError, match="exact scales of at most 8 bits"):
        quantize(prepare(np.ones((24, 96), np.float32), None, None), plan)


def test_it_needs_nothing_measured():
    assert discovery.needs("rounding", {"name": "storable"}) == frozenset()
