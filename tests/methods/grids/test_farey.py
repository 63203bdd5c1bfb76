"""Farey grids: the theorems of Hardy and Wright, chapter III, and how many bits they take."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from mediant.methods.grids.farey import LAST_INTEGER_ORDER, Farey, largest_order


def fractions(order):
    return sorted({Fraction(p, q) for q in range(1, order + 1) for p in range(-q, q + 1)})


def bits_for(order):
    return max(2, math.ceil(math.log2(len(fractions(order)))))


@pytest.mark.parametrize("order", range(1, 20))
def test_all_fractions_and_no_others(order):
    levels, expected = Farey(order).levels(bits_for(order)), fractions(order)
    if order <= LAST_INTEGER_ORDER:
        common = math.lcm(*range(1, order + 1))
        assert common <= np.iinfo(np.int8).max
        assert [Fraction(x) for x in levels] == [f * common for f in expected]
    else:
        assert levels.tolist() == [float(f) for f in expected]


@pytest.mark.parametrize("order", range(2, 20))
def test_neighbours_have_determinant_one(order):
    levels = Farey(order).levels(bits_for(order))
    values = [Fraction(x / levels[-1]).limit_denominator(order) for x in levels]
    for a, b in itertools.pairwise(values):
        assert b.numerator * a.denominator - a.numerator * b.denominator == 1


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_default_is_the_largest_order_that_fits(bits):
    order = largest_order(bits)
    assert len(fractions(order)) <= 2**bits < len(fractions(order + 1))
    np.testing.assert_array_equal(Farey().levels(bits), Farey(order).levels(bits))


def test_too_few_bits_are_told_how_many():
    with pytest.raises(ValueError, match="the 21 fractions of order 5 need 5 bits, not 4"):
        Farey(5).levels(4)


def test_the_next_common_denominator_is_beyond_int8():
    assert math.lcm(*range(1, LAST_INTEGER_ORDER + 2)) > np.iinfo(np.int8).max


def test_orders_start_at_one():
    with pytest.raises(ValueError, match="from 1, not 0"):
        Farey(0)
