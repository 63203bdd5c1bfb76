"""Estimates against the laws that they rest on; how right they are is measured on real models (docs/log.md)."""

from __future__ import annotations

import dataclasses
import re

import pytest

from mediant.allocation.operations import Operations
from mediant.models.opening import open_model
from mediant.pipeline.compress import begun
from mediant.pipeline.estimate import Speeds, measure_speeds, of, operations, seconds
from mediant.pipeline.request import CompressRequest
from mediant.planning.recipe import recipe_names
from mediant.statistics.calibration_text import calibration_tokens, tokens_to_write

SPEEDS = Speeds(products=1e9, few_vectors=1e9, factors=1e9, rounding=1e9)


@pytest.fixture
def model(tiny_folder):
    return open_model(str(tiny_folder("llama")))


@pytest.fixture
def begin(tiny_folder, text, tmp_path, monkeypatch):
    """A run to half of what a tiny model takes, which is large enough for an estimate."""
    monkeypatch.setattr("mediant.pipeline.estimate.FEWEST_WEIGHTS", 0)

    def run(recipe, **more):
        wanted = {"size": "42%", "calibration": text, "recipe": recipe, **more}
        return begun(CompressRequest(str(tiny_folder("llama")), tmp_path / "out", **wanted))

    return run


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_has_an_estimate_that_goes_with_the_speed(recipe, begin, monkeypatch):
    monkeypatch.setattr("mediant.pipeline.estimate.measure_speeds", lambda: SPEEDS)
    with begin(recipe) as run:
        assert re.fullmatch(r"This takes about \d.*", of(run))
        work = operations(run)
    fast, slow = (seconds(run.model, 512, work, speeds) for speeds in (SPEEDS, slower()))
    assert slow == pytest.approx(2 * fast, rel=1e-12)
    assert seconds(run.model, 0, work, SPEEDS) < fast
    if recipe in ("default", "entropy"):
        for name in ("products", "factors", "rounding"):
            assert seconds(run.model, 512, work, slower(name)) > fast


def slower(*names):
    halved = {name: speed / 2 for name, speed in dataclasses.asdict(SPEEDS).items() if not names or name in names}
    return dataclasses.replace(SPEEDS, **halved)


def test_training_and_tuning_count_by_their_steps(begin, tmp_path):
    products = []
    for steps in (0, 10, 20):
        file = tmp_path / "steps.yaml"
        file.write_text(
            f"description: s\nstages:\n- quantize: {{recipe: default, grid: {{name: gaussian_int}}}}\n"
            f"- train_codes: {{block_steps: {steps}, code_steps: {steps}}}\n- tune: {{steps: {steps}}}\n"
        )
        with begin(str(file)) as run:
            products.append(operations(run).products)
    assert products[0] == 0 < products[2] - products[1] < products[1]


def test_text_that_the_model_has_yet_to_write_counts(model):
    times = [seconds(model, 512, Operations(), SPEEDS, written) for written in (0, 512, 1024)]
    assert times[2] - times[1] == pytest.approx(times[1] - times[0], rel=1e-9)
    assert times[0] < times[1]
    slow = seconds(model, 512, Operations(), slower("few_vectors"), 512)
    assert slow - times[0] == pytest.approx(2 * (times[1] - times[0]))


def test_text_in_the_cache_is_not_written_again(model, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path))
    monkeypatch.setattr("mediant.statistics.calibration_text.WRITTEN", (2, 8))
    assert tokens_to_write(model, 0) == 16
    calibration_tokens(model, None, 0)
    assert tokens_to_write(model, 0) == 0
    assert tokens_to_write(model, 1) == 16


def test_speeds_are_of_work_that_was_done():
    assert all(speed > 0 for speed in dataclasses.astuple(measure_speeds()))
