"""The absolute maximum: nothing clips, and the affine form comes back within half a step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mediant.kernels.nearest_code import nearest_code
from mediant.methods.scales.absmax import Absmax

SIGNED = np.arange(-4.0, 4)
# Not so small that w / S leaves the range where float32 holds a step to 24 bits.
groups = arrays(np.float32, (3, 5), elements=st.floats(-(2.0**20), 2.0**20, width=32, allow_subnormal=False))


def decode(w, fit, levels):
    points = levels[nearest_code(w, *fit, levels)] - fit.zero[:, None]
    return fit.scale.astype(np.float64)[:, None] * points


@given(groups, st.sampled_from([1, 2, 3, 4, 8]))
def test_affine_comes_back_within_half_a_step(w, bits):
    levels = np.arange(2.0**bits)
    fit = Absmax().fit(w, None, levels, True)
    assert np.isin(fit.zero, levels).all()
    # S is rounded to float32: over 2^b steps that moves a decoded end by 2^b 2^-24 S, and so does rounding w.
    slack = fit.scale[:, None].astype(np.float64) * (0.5 + 2.0 ** (bits - 23))
    tiny = np.finfo(np.float32).smallest_subnormal * 2.0**bits
    assert (np.abs(decode(w, fit, levels) - w) <= slack + tiny).all()


def test_affine_fails_with_another_zero():
    w = np.random.default_rng(0).standard_normal((50, 20)).astype(np.float32)
    levels = np.arange(8.0)
    fit = Absmax().fit(w, None, levels, True)
    wrong = fit._replace(zero=fit.zero + 1)
    assert (np.abs(decode(w, wrong, levels) - w) > 0.51 * fit.scale[:, None]).any()


@given(groups)
def test_affine_keeps_zero(w):
    levels = np.arange(16.0)
    fit = Absmax().fit(w, None, levels, True)
    assert not decode(np.zeros_like(w), fit, levels).any()


@pytest.mark.parametrize("low", [-3.0, 0.5])
def test_affine_on_one_side_of_zero_still_holds_zero(low):
    w = np.float32([[low, low + 1, low + 2]])
    fit = Absmax().fit(w, None, np.arange(4.0), True)
    assert fit.zero[0] == (3 if low < 0 else 0)


@pytest.mark.parametrize("end", ["inner", "outer"])
def test_the_largest_weight_sits_on_a_level(end):
    w = np.random.default_rng(0).standard_normal((40, 9)).astype(np.float32)
    fit = Absmax(end).fit(w, None, SIGNED, False)
    largest = np.abs(w).argmax(1)[:, None]
    found, given = (np.take_along_axis(x, largest, 1) for x in (decode(w, fit, SIGNED), w))
    # A scale is rounded to 24 bits.
    assert (np.abs(found - given) <= 2.0**-24 * np.abs(given)).all()


def test_inner_takes_the_end_that_both_sides_have():
    assert Absmax().fit(np.float32([[-6, 5]]), None, SIGNED, False).scale[0] == 2
    assert Absmax().fit(np.float32([[-5, 6]]), None, SIGNED, False).scale[0] == 2


def test_outer_may_be_negative():
    assert Absmax("outer").fit(np.float32([[-8, 5], [-5, 8], [8, -8]]), None, SIGNED, False).scale.tolist() == [
        2,
        -2,
        -2,
    ]


def test_outer_on_a_symmetric_table_is_inner():
    w = np.random.default_rng(0).standard_normal((5, 9)).astype(np.float32)
    levels = np.arange(-3.0, 4)
    np.testing.assert_array_equal(
        Absmax("outer").fit(w, None, levels, False).scale, Absmax().fit(w, None, levels, False).scale
    )


def test_levels_on_one_side_only():
    assert Absmax().fit(np.float32([[-6, 3]]), None, np.array([1.0, 2, 3]), False).scale[0] == 2


def test_a_table_of_zero_alone_is_refused():
    with pytest.raises(ValueError, match="other than 0"):
        Absmax().fit(np.ones((1, 1), np.float32), None, np.zeros(1), False)


def test_an_unknown_end_is_refused():
    with pytest.raises(ValueError, match="'both' is not one of inner, outer"):
        Absmax("both")
