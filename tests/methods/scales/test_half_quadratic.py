"""Half-quadratic scales: the thresholding, the iteration against a loop in plain Python, and what it is for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mediant.methods.scales import Fit
from mediant.methods.scales.absmax import Absmax
from mediant.methods.scales.half_quadratic import HalfQuadratic, lp_error, shrunk, step

SIGNED = np.arange(-4.0, 4)


def test_shrinking_with_p_one_is_soft_thresholding():
    r = np.linspace(-3, 3, 61)
    np.testing.assert_array_equal(shrunk(r, 1.0, 2.0), np.sign(r) * np.maximum(np.abs(r) - 0.5, 0))


def test_shrinking_kills_small_and_keeps_large():
    p, beta = 0.7, 10.0
    threshold = beta ** (-1 / (2 - p))  # where |r| = |r|^(p-1) / β
    assert not shrunk(np.array([0.0, 0.999 * threshold, -0.999 * threshold]), p, beta).any()
    r = np.array([1.001 * threshold, 2, -2, 1e6])
    kept = shrunk(r, p, beta)
    assert (np.sign(kept) == np.sign(r)).all()
    assert (np.abs(kept) < np.abs(r)).all()
    assert (np.diff(kept / r)[[0, 2]] > 0).all()


def one_step(w, h, s, z, levels, zero_point, p, beta):
    """The equations of the docstring, one weight at a time."""
    q = [min(levels, key=lambda level: (abs(x / s + z - level), level)) for x in w]
    kept = []
    for x, level in zip(w, q, strict=True):
        r = x / s - (level - z)
        e = math.copysign(max(0, abs(r) - abs(r) ** (p - 1) / beta), r) if r else 0.0
        kept.append(x / s - e)
    if zero_point:
        z = sum(a * (b - c) for a, b, c in zip(h, q, kept, strict=True)) / sum(h)
    product = sum(a * c * (b - z) for a, b, c in zip(h, q, kept, strict=True))
    return s * product / sum(a * (b - z) ** 2 for a, b in zip(h, q, strict=True)), z


@pytest.mark.parametrize("zero_point", [False, True])
def test_one_step_as_the_equations_say(zero_point):
    generator = np.random.default_rng(0)
    levels = np.arange(8.0) if zero_point else SIGNED
    w = generator.standard_normal((20, 30)).astype(np.float32)
    h = generator.random((20, 30), np.float32)
    start = Absmax().fit(w, None, levels, zero_point)
    got = step(w, h, start, levels, zero_point, 0.7, 10.0)
    for i in range(20):
        s, z = one_step(*(x.astype(float).tolist() for x in (w[i], h[i])), *map(float, (start.scale[i], start.zero[i])),
                        levels.tolist(), zero_point, 0.7, 10.0)  # fmt: skip
        # Results are kept as float32; sums of 30 float64 terms are far more exact.
        assert abs(got.scale[i] - s) <= 2.0**-23 * abs(s)
        assert abs(got.zero[i] - z) <= 2.0**-23 * abs(z)


@pytest.mark.parametrize("zero_point", [False, True])
def test_the_lp_error_is_never_above_that_of_absmax_and_mostly_below(zero_point):
    generator = np.random.default_rng(0)
    w = generator.standard_t(3, (300, 64)).astype(np.float32)
    h, unit = np.ones_like(w), np.ones(300)
    levels = np.arange(8.0) if zero_point else SIGNED
    ours, absmax = (m.fit(w, None, levels, zero_point) for m in (HalfQuadratic(), Absmax()))
    after, before = (lp_error(w, h, fit, levels, unit, 0.7) for fit in (ours, absmax))
    # Compared in other units than the method's own: powers are good to a few units in the last place.
    assert (after <= before * (1 + 2.0**-45)).all()
    assert (after < before).mean() > 0.5


def test_an_outlier_does_not_own_the_scale():
    w = np.random.default_rng(0).choice([-1, 1], (20, 63)).astype(np.float32)
    w = np.concatenate((w, np.full((20, 1), 1.9, np.float32)), axis=1)
    scale = HalfQuadratic().fit(w, None, np.arange(-1.0, 2), False).scale
    assert (np.abs(scale - 1) < 0.01).all()


def test_no_iterations_are_absmax():
    w = np.random.default_rng(0).standard_normal((5, 9)).astype(np.float32)
    fit = HalfQuadratic(iterations=0).fit(w, None, SIGNED, False)
    assert isinstance(fit, Fit)
    np.testing.assert_array_equal(fit.scale, Absmax().fit(w, None, SIGNED, False).scale)


@pytest.mark.parametrize(
    "wrong", [{"lp_norm": 0}, {"lp_norm": 1}, {"beta": 0}, {"kappa": 0.5}, {"iterations": -1}, {"lp_norm": math.nan}]
)
def test_impossible_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match="must hold"):
        HalfQuadratic(**wrong)
