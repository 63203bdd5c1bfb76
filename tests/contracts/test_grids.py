"""What every grid promises, checked on every file of methods/grids."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest

from mediant import discovery
from mediant.errors import PlanError
from mediant.kernels.pairs import PAIRS, is_codebook

GRIDS = discovery.names("grids")
SAMPLE = np.random.default_rng(0).uniform(-1, 1, 5000)
BIT_WIDTHS = range(1, 9)


def tables(name):
    """The levels of a grid with its default parameters at every bit width that it has."""
    grid = discovery.make("grids", {"name": name})
    found = {}
    for bits in BIT_WIDTHS:
        with contextlib.suppress(ValueError):
            found[bits] = grid.levels(bits, SAMPLE, None)
    return found


def check(levels, bits):
    """The contract of one table."""
    assert levels.dtype == np.float64
    if levels.ndim == 2:
        check_codebook(levels, bits)
        return
    assert levels.ndim == 1
    assert 1 <= len(levels) <= 2**bits
    assert np.isfinite(levels).all()
    assert (np.diff(levels) > 0).all()
    # A checkpoint stores float32.
    assert (np.diff(levels.astype(np.float32)) > 0).all()


def check_codebook(points, bits):
    """The contract of one codebook of pairs."""
    assert is_codebook(bits, points.size)
    assert points.shape == (2, PAIRS)
    assert np.isfinite(points).all()
    assert len(np.unique(points.astype(np.float32), axis=1).T) == PAIRS


@pytest.mark.parametrize(
    "wrong",
    [
        np.array([0, 1]), np.array([[0.0, 1.0]]), np.array([]), np.arange(5.0), np.array([0, np.nan]),
        np.array([0, np.inf]), np.array([1.0, 0.0]), np.array([0.0, 0.0]), np.array([1.0, 1 + 1e-12]),
        np.zeros((2, 16)), np.arange(32.0).reshape(16, 2), np.full((2, 16), np.nan),
    ],
)  # fmt: skip
def test_the_check_refuses(wrong):
    with pytest.raises(AssertionError):
        check(wrong, 2)


@pytest.mark.parametrize("name", GRIDS)
def test_levels_are_ascending_finite_distinct_and_few(name):
    found = tables(name)
    assert found, "a grid has at least one bit width"
    for bits, levels in found.items():
        check(levels, bits)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("bits", [-1, 0, 9, 16])
def test_other_bit_widths_are_refused(name, bits):
    with pytest.raises(ValueError, match=str(bits)):
        discovery.make("grids", {"name": name}).levels(bits, SAMPLE, None)


@pytest.mark.parametrize("name", GRIDS)
def test_levels_can_be_repeated(name):
    first, second = tables(name), tables(name)
    assert all(np.array_equal(first[bits], second[bits]) for bits in first)


@pytest.mark.parametrize("name", GRIDS)
def test_a_spec_comes_back_through_json(name):
    grid = discovery.make("grids", {"name": name})
    spec = json.loads(json.dumps(discovery.spec(grid)))
    assert spec["name"] == name
    assert discovery.make("grids", spec) == grid


@pytest.mark.parametrize("name", GRIDS)
def test_unknown_parameters_are_refused(name):
    with pytest.raises(PlanError, match="colour"):
        discovery.make("grids", {"name": name, "colour": "red"})


@pytest.mark.parametrize("name", GRIDS)
def test_a_zero_point_goes_with_levels_from_zero_on(name):
    grid = discovery.make("grids", {"name": name})
    for bits, levels in tables(name).items():
        if grid.zero_point:
            assert levels.tolist() == list(range(2**bits))
