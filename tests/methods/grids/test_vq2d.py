"""The codebook of pairs: an optimum but for rounding, better than levels, and what kernels can compute with."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, qmc

from mediant.kernels.packed_matrix import WholeLevels
from mediant.methods.grids.gaussian import Gaussian
from mediant.methods.grids.gaussian_int import GaussianInt
from mediant.methods.grids.vq2d import Vq2d

SAMPLE = norm.ppf(qmc.Sobol(2, seed=3).random(1 << 15))
POINTS = Vq2d().levels(2).T


def nearest(points):
    return np.square(SAMPLE[:, None] - points).sum(axis=2).argmin(axis=1)


def error_at_best_scale(points):
    """Mean squared error of a coordinate."""
    scales = np.linspace(0.8, 1.2, 81) / np.sqrt(np.square(points).mean())
    return min(np.square(SAMPLE - s * points[nearest(s * points)]).mean() for s in scales)


def test_points_err_eight_percent_less_than_the_best_levels():
    levels = Gaussian().levels(2)
    product = np.stack([np.repeat(levels, 4), np.tile(levels, 4)], axis=1)
    assert error_at_best_scale(product) == pytest.approx(0.1175, rel=0.005)
    assert error_at_best_scale(POINTS) < 0.92 * error_at_best_scale(product)


def test_steps_of_lloyd_from_the_points_gain_almost_nothing():
    """Points are where the conditions of optimality hold, but for having been rounded to whole numbers."""
    points = POINTS / np.sqrt(np.square(POINTS).mean()) * np.sqrt(1 - 0.1078)
    for _ in range(60):
        cell = nearest(points)
        points = np.stack([SAMPLE[cell == p].mean(axis=0) for p in range(16)])
    assert np.square(SAMPLE - points[nearest(points)]).mean() > 0.995 * error_at_best_scale(POINTS)


def test_kernels_take_the_points_as_they_are():
    flat = Vq2d().levels(2).reshape(-1)
    whole = WholeLevels.of(flat.astype(np.float32), 2)
    assert whole.suits(2)
    np.testing.assert_array_equal(whole.unit * (whole.numbers - whole.zero), flat)


def test_from_three_bits_on_levels_are_those_of_bell():
    for bits in range(3, 9):
        np.testing.assert_array_equal(Vq2d().levels(bits), GaussianInt().levels(bits))
    for bits in (0, 1, 9):
        with pytest.raises(ValueError, match="bits"):
            Vq2d().levels(bits)
