"""What is measured: all matrices, in the order of the model, with bytes that add up and losses that fall."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest

from mediant.allocation.layers import SMALLEST_MATRIX
from mediant.allocation.units import (
    EMBEDDING_RUNS,
    EXPERT_RUNS,
    measure,
    outline,
    quantizable,
    units_from_json,
    units_to_json,
)
from mediant.models.opening import open_model
from mediant.planning.recipe import load_recipe, recipe_names
from mediant.statistics.calibration_text import calibration_tokens
from mediant.statistics.sensitivity import collect
from mediant.values import RowSpan


@pytest.fixture(scope="module")
def model(tiny_folder):
    return open_model(str(tiny_folder("mixtral")))


@pytest.fixture(scope="module")
def statistics(model, text):
    return collect(model, calibration_tokens(model, text, 0))


def test_every_large_matrix_is_quantized_and_nothing_else(architecture, tiny_folder):
    model = open_model(str(tiny_folder(architecture)))
    chosen = {t.name for t in quantizable(model)}
    for t in model.tensors:
        # Routers and norms say little and cost little; a role is what makes a tensor one of them.
        assert (t.name in chosen) == (
            t.role in ("linear", "embedding", "head", "expert") and t.layout != "none" and t.size >= SMALLEST_MATRIX
        )
    share = sum(t.size for t in model.tensors if t.name in chosen) / model.weights
    assert share > 0.8


@pytest.mark.parametrize("recipe", recipe_names())
def test_bytes_are_known_before_losses(recipe, model):
    chosen = load_recipe(recipe)
    for bits in chosen.bit_widths:
        for info in quantizable(model):
            units = [u for u in outline(model, chosen) if u.tensor == info.name]
            most = {"embedding": EMBEDDING_RUNS, "head": EMBEDDING_RUNS, "expert": min(EXPERT_RUNS, info.shape[0])}
            assert len(units) == most.get(info.role, 1)
            assert sum(u.rows for u in units) == info.matrix_shape[0]
            plan = chosen.tensor_plan((RowSpan(info.matrix_shape[0], bits),), info.role)
            # Factors of columns, which a matrix has once, are counted for each unit.
            shared = (
                2 * info.matrix_shape[1] * (len(units) - 1)
                if plan.to_dict().get("basis", {}).get("name") == "columns"
                else 0
            )
            # Each unit rounds its planes, its scales and its share of the table up to a byte.
            over = sum(u.sizes[bits] for u in units) - plan.nbytes(info) - shared
            assert 0 <= over <= len(units) * (bits + 3)


def test_measuring_adds_losses_to_the_outline(model, statistics):
    recipe = load_recipe("nearest")
    measured = measure(model, statistics, recipe)
    plain = [dataclasses.replace(unit, losses=dict.fromkeys(recipe.bit_widths, 0.0)) for unit in measured]
    assert plain == outline(model, recipe)
    for unit in measured:
        losses = [unit.losses[bits] for bits in sorted(unit.losses)]
        assert all(deeper < shallower for shallower, deeper in pairwise(losses))


def test_threads_do_not_change_a_bit(model, statistics, monkeypatch):
    found = []
    for count in ("1", "3"):
        monkeypatch.setenv("MEDIANT_THREADS", count)
        found.append(units_to_json(measure(model, statistics, load_recipe("nearest"))))
    assert found[0] == found[1]


def test_a_matrix_that_calibration_did_not_reach_counts_like_the_median_one(model, statistics):
    recipe = load_recipe("nearest")
    unreached = [t.name for t in quantizable(model) if t.role == "expert"]
    assert unreached
    layers = {name: layer for name, layer in statistics.layers.items() if name not in unreached}
    statistics = dataclasses.replace(statistics, layers=layers)
    measured = measure(model, statistics, recipe)
    most = {name: sum(u.losses[2] for u in measured if u.tensor == name) for name in {u.tensor for u in measured}}
    reached = [loss for name, loss in most.items() if name not in unreached]
    assert all(min(reached) <= most[name] <= max(reached) for name in unreached)


def test_units_survive_being_kept(model, statistics):
    units = measure(model, statistics, load_recipe("nearest"))
    assert units_from_json(units_to_json(units)) == units
    changed = json.loads(units_to_json(units))
    changed[0]["losses"]["2"] = float(np.nextafter(changed[0]["losses"]["2"], 1))
    assert units_from_json(json.dumps(changed).encode()) != units
