"""Dual ascent against brute force, and its Newton steps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.forms.compand.dual_ascent import NO_DEMAND, ascend, bits, log2_demand, whole, within

demands = st.lists(st.floats(-20, 20), min_size=1, max_size=4).map(np.array)


ALL = {n: np.array(list(itertools.product(range(9), repeat=n))) for n in range(1, 5)}


def distortion(demand, bit_widths):
    return (2.0**demand * 4.0 ** -np.asarray(bit_widths, float)).sum(axis=-1)


@given(demands, st.floats(-40, 30))
def test_no_other_whole_bit_widths_with_as_few_bits_are_better(demand, log2_v):
    found = whole(demand, log2_v)
    others = ALL[len(demand)]
    best = distortion(demand, others[others.sum(axis=1) <= found.sum()]).min()
    # Sums of at most four float64.
    assert distortion(demand, found) <= best * (1 + 1e-14)


def test_other_bit_widths_would_have_been_worse():
    demand = np.array([0.0, 8.0])
    assert whole(demand, -3.0).tolist() == [2, 6]
    assert distortion(demand, [3, 5]) > distortion(demand, [2, 6]) < distortion(demand, [1, 7])


@given(demands, st.floats(0.5, 7.5))
def test_newton_meets_the_rate(demand, rate):
    sizes = np.arange(1.0, len(demand) + 1)
    mean = np.average(bits(demand, ascend(demand, sizes, rate)), weights=sizes)
    assert mean == pytest.approx(rate, abs=1e-6)


@given(demands, st.floats(0, 8))
def test_whole_bit_widths_keep_to_the_rate_and_use_it(demand, rate):
    sizes = np.arange(1.0, len(demand) + 1)
    log2_v = within(demand, sizes, rate)
    assert np.average(whole(demand, log2_v), weights=sizes) <= rate
    finer = whole(demand, log2_v - 1e-6)
    assert np.average(finer, weights=sizes) > rate or (finer == 8).all()


def test_a_quarter_of_the_demand_is_a_bit_less():
    demand = np.array([10.0, 8.0, 6.0])
    assert np.diff(bits(demand, 0.0)).tolist() == [-1.0, -1.0]


def test_nothing_depends_on_some_groups():
    squares, variances = np.float32([0, 4, 1e-38]), np.float32([1, 2, 1e-38])
    found = log2_demand(squares, variances)
    assert found[:2].tolist() == [NO_DEMAND, 3.0]
    assert NO_DEMAND < found[2] < -200
    assert whole(found, -10.0)[0] == 0
