"""Forecasts against the laws that they rest on; how right they are is measured on real models (docs/log.md)."""

from __future__ import annotations

import dataclasses

import pytest

from mediant.models.opening import open_model
from mediant.pipeline.forecast import Speeds, measure_speeds, seconds
from mediant.planning.recipe import load_recipe
from mediant.statistics.calibration import calibration_tokens, tokens_to_write

SPEEDS = Speeds(products=1e9, few_vectors=1e9, factors=1e9, rounding=1e9)


@pytest.fixture
def model(tiny_folder):
    return open_model(str(tiny_folder("llama")))


@pytest.mark.parametrize("entropy_coded", [False, True])
def test_half_the_speed_takes_twice_the_time(model, entropy_coded):
    slow = Speeds(*(speed / 2 for speed in dataclasses.astuple(SPEEDS)))
    recipe = load_recipe("default")
    fast = seconds(model, recipe, 512, entropy_coded, False, SPEEDS)
    assert seconds(model, recipe, 512, entropy_coded, False, slow) == pytest.approx(2 * fast, rel=1e-12)
    for name in ("products", "factors", "rounding"):
        assert seconds(model, recipe, 512, entropy_coded, False, dataclasses.replace(SPEEDS, **{name: 5e8})) > fast


def test_calibration_grows_with_the_text_and_is_not_counted_twice(model):
    recipe = load_recipe("default")
    times = [seconds(model, recipe, tokens, False, False, SPEEDS) for tokens in (0, 512, 1024)]
    assert times[2] - times[1] == pytest.approx(times[1] - times[0], rel=1e-9)
    assert times[1] > times[0] == seconds(model, recipe, 512, False, True, SPEEDS)


def test_text_that_the_model_has_yet_to_write_counts(model):
    recipe = load_recipe("default")
    times = [seconds(model, recipe, 512, False, False, SPEEDS, written) for written in (0, 512, 1024)]
    assert times[2] - times[1] == pytest.approx(times[1] - times[0], rel=1e-9)
    assert times[0] == seconds(model, recipe, 512, False, False, SPEEDS) < times[1]
    slow = dataclasses.replace(SPEEDS, few_vectors=5e8)
    assert seconds(model, recipe, 512, False, False, slow, 512) - times[0] == pytest.approx(2 * (times[1] - times[0]))


def test_text_in_the_cache_is_not_written_again(model, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path))
    monkeypatch.setattr("mediant.statistics.calibration.WRITTEN", (2, 8))
    assert tokens_to_write(model, 0) == 16
    calibration_tokens(model, None, 0)
    assert tokens_to_write(model, 0) == 0
    assert tokens_to_write(model, 1) == 16


def test_speeds_are_of_work_that_was_done():
    assert all(speed > 0 for speed in dataclasses.astuple(measure_speeds()))
