"""Spending bytes: never over, hardly under, whatever the losses are and whatever a plan costs beside its tensors."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from mediant.allocation import whole_plan
from mediant.allocation.knapsack import predicted_loss
from mediant.allocation.sizing import Sizing
from mediant.allocation.units import outline
from mediant.errors import SizeError
from mediant.planning.recipe import load_recipe
from mediant.planning.size import FULLEST
from mediant.values import Model, TensorInfo


@pytest.fixture(autouse=True)
def _weights_fit(monkeypatch):
    """Models here have shapes and no weights, so none is read to see what type can hold it."""
    monkeypatch.setattr(whole_plan, "beyond", lambda model, names, dtype: frozenset())


def model_of(*shapes, tied=False):
    """A model of matrices of these shapes, the first of them an embedding, each with a bias, and one norm."""
    tensors = []
    for i, (rows, columns) in enumerate(shapes):
        role = "linear" if i else "embedding"
        tensors.append(TensorInfo(f"m{i}.weight", (rows, columns), "float32", role, "out_in", f"m{i}"))
        tensors.append(TensorInfo(f"m{i}.bias", (rows,), "float32", "bias", "none", f"m{i}"))
    tensors.append(TensorInfo("norm.weight", (64,), "float32", "norm", "none", "norm"))
    tensors.append(TensorInfo("norm.bias", (64,), "float32", "bias", "none", "norm"))
    return Model(Path("nowhere"), "made up", "MadeUp", {}, tuple(tensors), "0" * 64)


MODEL = model_of((500, 64), (64, 64), (96, 64), (64, 96))


# What a bit width that is new to a tensor may cost beside its rows: a table of 256 floats, and what is said of it.
MOST_BESIDE = 4 * 256 + 200 + 2 * 9


def sizing(recipe="nearest", scale=lambda unit: 1.0, beside=1000, model=MODEL):
    chosen = load_recipe(recipe)
    units = [
        dataclasses.replace(u, losses={b: u.rows * scale(u) * 4.0**-b for b in u.sizes}) for u in outline(model, chosen)
    ]

    def folder_bytes(plan):
        payload = sum(plan.tensors[t.name].nbytes(t) for t in model.tensors)
        # Like a manifest: longer with every run, bit width and drop of a tensor, and with the target's digits.
        plans = plan.tensors.values()
        said = sum(
            9 * len(p.runs) + len(str(getattr(p, "truncations", ()))) + 200 * len({r.bits for r in p.runs})
            for p in plans
        )
        return beside + payload + said + len(str(plan.target_bytes))

    return Sizing(model, chosen, units, folder_bytes, seed=0)


RECIPES = ["default", "nearest", "rtn", "hqq", "nested"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_never_over_and_hardly_under(recipe):
    spend = sizing(recipe, scale=lambda unit: 1 + hash_of(unit) % 97)
    smallest, largest = spend.range()
    for target in np.linspace(smallest, largest / FULLEST, 60).astype(int).tolist():
        size = spend.folder_bytes(spend.plan(target))
        assert size <= target
        # In a model as small as this, one more bit width costs more with its table than half a percent.
        assert size >= FULLEST * target or target - size <= MOST_BESIDE


def hash_of(unit):
    return sum(map(ord, unit.tensor)) * 31 + unit.rows


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("beside", [0, 9_000, 87_654])
def test_the_smallest_and_the_largest_are_met_to_the_byte(recipe, beside):
    spend = sizing(recipe, beside=beside)
    for size in spend.range():
        assert spend.folder_bytes(spend.plan(size)) == size


def test_no_target_in_between_gives_less_than_a_smaller_one():
    spend = sizing(scale=lambda unit: 1 + hash_of(unit) % 13)
    smallest, largest = spend.range()
    losses = [spend.plan(t).predicted_loss for t in np.linspace(smallest, largest, 12).astype(int).tolist()]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == len(losses)


@pytest.mark.parametrize("scale", [lambda unit: 0.0, lambda unit: float(unit.tensor == "m1.weight")])
def test_a_size_is_a_promise_even_where_nothing_is_gained(scale):
    spend = sizing(scale=scale)
    smallest, largest = spend.range()
    for target in np.linspace(smallest, largest, 15).astype(int).tolist()[1:]:
        assert FULLEST * target <= spend.folder_bytes(spend.plan(target)) <= target


def test_what_is_refused_names_what_is_not():
    spend = sizing()
    smallest, largest = spend.range()
    most = math.floor(largest / FULLEST)
    for target, named in ((smallest - 1, smallest), (most + 1, largest)):
        with pytest.raises(SizeError, match=rf"\({target} bytes\).*\({named} bytes\)"):
            spend.plan(target)
        with pytest.raises(SizeError, match=rf"\({named} bytes\)"):
            spend.check(target)
    assert spend.folder_bytes(spend.plan(most)) == largest + len(str(most)) - len(str(largest))


def test_losses_are_those_of_the_runs_that_were_chosen():
    spend = sizing(scale=lambda unit: 1 + hash_of(unit) % 13)
    plan = spend.plan(sum(spend.range()) // 2)
    runs = {name: p.runs for name, p in plan.tensors.items() if p.method == "quantize"}
    assert plan.predicted_loss == predicted_loss(spend.units, runs)
    by_hand = 0.0
    for i, unit in enumerate(spend.units):
        rows = [run.bits for run in runs[unit.tensor] for _ in range(run.rows)]
        start = sum(u.rows for u in spend.units[:i] if u.tensor == unit.tensor)
        by_hand += sum(unit.losses[b] for b in rows[start : start + unit.rows]) / unit.rows
    assert plan.predicted_loss == pytest.approx(by_hand, rel=1e-12)


def test_only_biases_of_quantized_modules_are_corrected():
    plan = sizing().plan(sizing().range()[0])
    corrected = {name for name, tensor in plan.tensors.items() if tensor.bias_correction}
    assert corrected == {f"m{i}.bias" for i in range(4)}
    assert not any(t.bias_correction for t in sizing("rtn").plan(sizing("rtn").range()[0]).tensors.values())


def test_what_is_not_quantized_is_kept_as_the_recipe_says():
    plan = sizing().plan(sizing().range()[0])
    kept = {name: tensor.dtype for name, tensor in plan.tensors.items() if tensor.method == "cast"}
    assert set(kept) == {"norm.weight", "norm.bias", *(f"m{i}.bias" for i in range(4))}
    assert set(kept.values()) == {"float16"}


def test_a_single_bit_width_leaves_one_size():
    spend = sizing()
    spend = dataclasses.replace(
        spend,
        recipe=dataclasses.replace(spend.recipe, bit_widths=(4,)),
        units=[dataclasses.replace(u, sizes={4: u.sizes[4]}, losses={4: u.losses[4]}) for u in spend.units],
    )
    smallest, largest = spend.range()
    assert smallest == largest
    assert spend.folder_bytes(spend.plan(smallest)) == smallest
    with pytest.raises(SizeError):
        spend.plan(math.floor(largest / FULLEST) + 1)
