"""Grids of fractions: what they hold, and the law that makes them lose to a uniform grid."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from mediant.kernels.nearest_code import nearest_code
from mediant.methods.grids.farey import Farey
from mediant.methods.grids.rationals import Rationals


@pytest.mark.parametrize(("bits", "largest"), [(2, 1), (3, 2), (4, 4), (5, 6), (6, 9), (7, 13), (8, 19)])
def test_nearest_level_is_the_best_fraction(bits, largest):
    # With scale 1 this is element-wise approximation by fractions of bounded denominator.
    levels = Rationals().levels(bits)
    x = np.random.default_rng(bits).uniform(-1, 1, 500).astype(np.float32)
    found = levels[nearest_code(x[None], np.ones(1, np.float32), np.zeros(1, np.float32), levels)[0]]
    assert found.tolist() == [float(Fraction(float(v)).limit_denominator(largest)) for v in x]


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_widest_gap_lies_beside_zero(bits):
    levels = Rationals().levels(bits)
    gaps, zero = np.diff(levels), np.flatnonzero(levels == 0)[0]
    # A gap is a difference of two levels that were each rounded by up to 2^-54.
    assert gaps.max() <= levels[zero + 1] + 2.0**-53


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_same_set_as_farey(bits):
    scaled = Farey().levels(bits)
    np.testing.assert_array_equal(Rationals().levels(bits), scaled / scaled[-1])


def test_too_few_bits_are_told_how_many():
    with pytest.raises(ValueError, match="need 5 bits, not 4"):
        Rationals(5).levels(4)


def test_denominators_start_at_one():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        Rationals(0)
