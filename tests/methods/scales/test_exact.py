"""The exact scale as a method; that it is the optimum is tested with its kernel."""

from __future__ import annotations

import numpy as np

from mediant.kernels.nearest_code import nearest_code
from mediant.methods.scales.exact import Exact

SIGNED = np.arange(-4.0, 4)


def error(w, scale):
    codes = nearest_code(w, scale, np.zeros_like(scale), SIGNED)
    return np.square(w - scale.astype(np.float64)[:, None] * SIGNED[codes]).sum(1)


def test_no_other_scale_of_either_sign_has_less_error():
    w = np.random.default_rng(0).standard_t(3, (40, 64)).astype(np.float32)
    best = error(w, Exact().fit(w, None, SIGNED, False).scale)
    peak = np.abs(w).max(1)
    others = [error(w, sign * peak / t) for sign in (-1, 1) for t in np.geomspace(0.5, 12, 200, dtype=np.float32)]
    # What rounding the scale to float32 may add: 2^-48 Σ w^^2 <= 2^-48 Σ w^2; and float64 sums of 64 terms.
    slack = 2.0**-46 * np.square(w, dtype=np.float64).sum(1)
    assert (best <= np.min(others, axis=0) + slack).all()
    # Dense as they are, none of the 400 others is the optimum of all groups.
    assert not (np.min(others, axis=0) <= best + slack).all()


def test_a_group_on_the_grid_is_found_again():
    codes = np.random.default_rng(0).integers(-4, 4, (30, 64)).astype(np.float64)
    scale = np.float32(0.37) * np.where(np.arange(30) % 2, -1, 1).astype(np.float32)
    w = (scale[:, None] * codes).astype(np.float32)
    fit = Exact().fit(w, None, SIGNED, False)
    # Each w is within 2^-24 of its multiple of s, and a mean over them no further.
    assert (np.abs(fit.scale - scale) <= 2.0**-23 * np.abs(scale)).all()


def test_a_zero_point_serves_a_group_off_centre():
    w = np.random.default_rng(0).uniform(2, 3, (10, 64)).astype(np.float32)
    w[:, :8] = 0
    fit = Exact().fit(w, None, np.arange(4.0), True)
    assert (fit.zero == 0).all()
    assert (fit.scale > 0).all()
    mirrored = Exact().fit(-w, None, np.arange(4.0), True)
    assert (mirrored.zero == 3).all()
    np.testing.assert_array_equal(mirrored.scale, fit.scale)
