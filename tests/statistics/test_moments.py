"""Moments: exact oracle, merging, affine laws, known distributions, bounded memory."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.statistics import moments as module
from mediant.statistics.moments import Moments, merge, moments, outliers

EPS = float(np.finfo(np.float64).eps)
ROUNDINGS = 16  # per value: shift, mean, difference, powers, sum, and the merge's own few
SUMS = ("m2", "m3", "m4")

small = st.floats(-1e4, 1e4, width=32)
arrays = st.lists(small, min_size=1, max_size=40).map(lambda v: np.array(v, np.float32))
whole = st.lists(st.integers(-1000, 1000), min_size=1, max_size=40)


def assert_same(found: Moments, expected: Moments) -> None:
    """Equal up to ROUNDINGS errors a value: a deviation errs by eps R, its k-th power by k eps R^k, R the range."""
    assert (found.count, found.zeros) == (expected.count, expected.zeros)
    assert (found.minimum, found.maximum) == (expected.minimum, expected.maximum)
    reach = expected.maximum - expected.minimum
    size = max(abs(expected.minimum), abs(expected.maximum))
    unit = ROUNDINGS * EPS * expected.count
    assert abs(found.mean - expected.mean) <= unit * size
    for k, name in enumerate(SUMS, 2):
        # the mean is off by eps size, which shifts every deviation
        limit = k * unit * (reach + EPS * size) ** k
        assert abs(getattr(found, name) - getattr(expected, name)) <= limit, name


def exact(values: list[int]) -> Moments:
    """The definition, in rational numbers."""
    mean = Fraction(sum(values), len(values))
    sums = [float(sum((v - mean) ** k for v in values)) for k in (2, 3, 4)]
    return Moments(len(values), min(values), max(values), float(mean), *sums, zeros=values.count(0))


@given(whole)
def test_equals_the_definition(values: list[int]) -> None:
    assert_same(moments(np.array(values, np.float32)), exact(values))


@given(arrays, arrays)
def test_merging_equals_the_moments_of_both_together(a: np.ndarray, b: np.ndarray) -> None:
    assert_same(merge(moments(a), moments(b)), moments(np.concatenate([a, b])))


@given(arrays, arrays, arrays)
def test_merging_is_associative_and_commutative(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    x, y, z = moments(a), moments(b), moments(c)
    assert_same(merge(merge(x, y), z), merge(x, merge(y, z)))
    assert_same(merge(x, y), merge(y, x))


@given(arrays)
def test_nothing_is_the_neutral_element(a: np.ndarray) -> None:
    x = moments(a)
    assert merge(x, Moments()) == x == merge(Moments(), x)
    assert moments(np.zeros(0, np.float32)) == Moments()


@pytest.mark.parametrize("name", ["mean", *SUMS])
@pytest.mark.parametrize("spoil", [lambda v: -v, lambda v: 2 * v, lambda v: math.nan, lambda v: v + 1e-6])
def test_the_comparator_sees_a_wrong_figure(name: str, spoil) -> None:
    right = exact([-5, 0, 1, 1, 2, 40])
    assert_same(right, right)
    with pytest.raises(AssertionError):
        assert_same(dataclasses.replace(right, **{name: spoil(getattr(right, name))}), right)


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).standard_normal((70, 30)).astype(np.float32)
    together = moments(values)
    monkeypatch.setattr(module, "BLOCK", 64)
    assert_same(moments(values), together)
    assert outliers(values, together, 2.0) == np.count_nonzero(np.abs(values - together.mean) > 2 * together.std)


@given(whole, st.integers(-20, 20), st.sampled_from([-4.0, -1.0, 0.5, 2.0]))
def test_shape_does_not_depend_on_unit_and_origin(values: list[int], shift: int, factor: float) -> None:
    x = np.array(values, np.float64)
    before, after = moments(x), moments(factor * (x + shift * 2**20))  # every step exact in float64
    low, high = factor * (np.array([x.min(), x.max()]) + shift * 2**20)[:: 1 if factor > 0 else -1]
    assert (after.minimum, after.maximum) == (low, high)
    limit = ROUNDINGS * EPS * x.size
    assert abs(after.mean - factor * (before.mean + shift * 2**20)) <= limit * max(abs(low), abs(high))
    assert after.std == pytest.approx(abs(factor) * before.std, rel=2 * limit)
    if before.m2 > 0:
        # |x - mean| / std <= sqrt(n), so the standardised powers are bounded by n and n^(3/2)
        assert abs(after.skewness - math.copysign(1, factor) * before.skewness) <= 8 * limit * x.size
        assert abs(after.kurtosis - before.kurtosis) <= 8 * limit * x.size**1.5


# name: standardised moments 4, 6 and 8 of the symmetric distribution
KNOWN = {"standard_normal": (3, 15, 105), "laplace": (6, 90, 2520), "uniform": (9 / 5, 27 / 7, 9)}


@pytest.mark.parametrize("name", KNOWN)
def test_kurtosis_of_known_distributions(name: str) -> None:
    """Within five standard errors of the asymptotic law of the sample kurtosis."""
    n = 200_000
    found = moments(getattr(np.random.default_rng(7), name)(size=n))
    error = {k: math.sqrt((m8 - 4 * m4 * m6 + 4 * m4**3 - m4**2) / n) for k, (m4, m6, m8) in KNOWN.items()}
    fits = [k for k, (m4, _, _) in KNOWN.items() if abs(found.kurtosis - (m4 - 3)) <= 5 * error[k]]
    assert fits == [name]
    m4, m6, _ = KNOWN[name]
    assert abs(found.skewness) <= 5 * math.sqrt((m6 - 6 * m4 + 9) / n)


def test_a_large_mean_does_not_hide_a_small_spread() -> None:
    values = np.random.default_rng(3).integers(-100, 100, 10_000).astype(np.float64)
    far = values + 2.0**40  # still exact
    assert moments(far).m2 == pytest.approx(moments(values).m2, rel=2 * ROUNDINGS * EPS * values.size)
    naive = float((far**2).mean() - far.mean() ** 2)
    assert abs(naive - moments(values).std ** 2) > 1  # what this test would catch


def test_constants_have_no_shape() -> None:
    found = moments(np.full(1000, np.float32(0.1)))
    assert found.mean == float(np.float32(0.1))
    assert (found.m2, found.m3, found.m4, found.std) == (0, 0, 0, 0)
    assert math.isnan(found.skewness)
    assert math.isnan(found.kurtosis)
    assert math.isnan(found.peak)
    assert outliers(np.full(1000, np.float32(0.1)), found) == 0


def test_smallest_and_largest_float32_neither_vanish_nor_overflow() -> None:
    for unit in (np.float32(1e-45), np.float32(3e38)):
        found = moments(np.array([-unit, 0, unit], np.float32))
        assert found.kurtosis == pytest.approx(1.5 - 3, abs=ROUNDINGS * EPS)
        assert found.zeros_share == 1 / 3


def test_planted_outliers_are_counted() -> None:
    values = np.random.default_rng(5).uniform(-1, 1, 10_000)
    values[::1000] = 50
    found = moments(values)
    assert outliers(values, found) == 10
    assert found.absmax == 50
    assert found.peak == 50 / found.std


def test_memory_is_bounded_for_a_transposed_tensor() -> None:
    values = np.ones((4096, 4096), np.float16).T
    tracemalloc.start()
    try:
        outliers(values, moments(values))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 8 * module.BLOCK < values.nbytes
