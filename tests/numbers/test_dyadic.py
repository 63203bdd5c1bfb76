"""Dyadic fractions against `Fraction`, signed digits against exhaustive search."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.errors import UsageError
from mediant.numbers import dyadic

DOUBLES = st.floats(allow_nan=False, allow_infinity=False)
ODD_ONES = [0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 2.0**53 + 2, -1.5]


@given(st.lists(DOUBLES))
def test_split_is_exact_and_odd(values):
    values = [*values, *ODD_ONES]
    odd, exponent = dyadic.split(values)
    for x, m, e in zip(values, odd.tolist(), exponent.tolist(), strict=True):
        assert Fraction(x) == m * Fraction(2) ** e
        assert m % 2 or (m, e) == (0, 0)


@given(st.lists(DOUBLES))
def test_ratio_is_the_fraction(values):
    numerator, denominator = dyadic.ratio(values)
    pairs = list(zip(numerator.tolist(), denominator.tolist(), strict=True))
    assert pairs == [Fraction(x).as_integer_ratio() for x in values]


def test_ratio_is_int64_where_it_can_be():
    assert dyadic.ratio([0.1, -(2.0**62)])[0].dtype == np.int64
    assert dyadic.ratio([2.0**-62])[1].tolist() == [2**62]
    assert dyadic.ratio([2.0**-63])[1].tolist() == [2**63]
    assert dyadic.ratio([2.0**63])[0].dtype == object
    assert [part.item() for part in dyadic.ratio(Fraction(22, 7))] == [22, 7]


@given(st.lists(DOUBLES), st.integers(0, 1074))
def test_nearest_rounds_like_fraction(values, places):
    expected = [round(Fraction(x) * 2**places) for x in values]
    assert dyadic.nearest(values, places).tolist() == expected


@given(DOUBLES.filter(bool), st.integers(1, 53))
def test_multiplier_has_its_bits_and_is_nearest(x, bits):
    p, k = (int(part) for part in dyadic.multiplier(x, bits))
    assert 2 ** (bits - 1) <= abs(p) < 2**bits
    scaled = Fraction(x) * Fraction(2) ** k
    assert abs(scaled - p) <= Fraction(1, 2)
    assert abs(scaled / p - 1) <= Fraction(1, 2**bits)


def test_multiplier_of_zero_and_of_what_rounds_up():
    assert [part.tolist() for part in dyadic.multiplier([0.0, -0.0, 0.999], 4)] == [[0, 0, 8], [0, 0, 3]]


def value_of(digits):
    return sum(d * 2**i for i, d in enumerate(digits))


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_signed_digits_give_the_number_back_without_neighbours(p):
    digits = dyadic.canonical_signed_digits(p).tolist()
    assert value_of(digits) == p
    assert not any(a and b for a, b in itertools.pairwise(digits))
    assert not digits or digits[-1]


def test_signed_digits_are_fewest_up_to_4096():
    """By breadth-first search: what sums of k signed powers reach is of weight at most k."""
    limit, powers = 2**12, [s * 2**i for i in range(14) for s in (1, -1)]
    weight, frontier = {0: 0}, {0}
    while frontier:
        frontier = {v + p for v in frontier for p in powers if abs(v + p) <= 2 * limit} - weight.keys()
        weight |= dict.fromkeys(frontier, max(weight.values()) + 1)
    numbers = np.arange(-limit, limit + 1)
    assert np.count_nonzero(dyadic.canonical_signed_digits(numbers), axis=-1).tolist() == [
        weight[int(p)] for p in numbers
    ]
    assert dyadic.adders(numbers).tolist() == [max(0, weight[int(p)] - 1) for p in numbers]


def test_shapes_of_signed_digits():
    assert dyadic.canonical_signed_digits(np.zeros((2, 3), int)).shape == (2, 3, 0)
    assert dyadic.canonical_signed_digits(np.array([[5], [-5]])).tolist() == [[[1, 0, 1]], [[-1, 0, -1]]]
    assert dyadic.adders(np.zeros((0, 4), int)).shape == (0, 4)
    assert dyadic.adders(7).shape == ()


POWERS = [0, *(2**i for i in range(18))]
TWO_POWERS = sorted({s * (a + t * b) for a in POWERS for b in POWERS for s in (1, -1) for t in (1, -1)})


@given(st.lists(st.floats(-(2.0**9), 2.0**9)), st.integers(0, 6))
def test_two_powers_are_the_nearest_of_weight_two(values, places):
    for x, p in zip(values, dyadic.two_powers(values, places).tolist(), strict=True):
        scaled = Fraction(x) * 2**places
        assert p == min(TWO_POWERS, key=lambda level, s=scaled: (abs(s - level), abs(level)))


def test_two_powers_on_ties_and_at_the_limit():
    # 11 lies between 10 = 8 + 2 and 12 = 8 + 4; 2^51 is the last.
    assert dyadic.two_powers([11.0, -11.0, 2.0**51], 0).tolist() == [10, -10, 2**51]
    with pytest.raises(UsageError, match="within"):
        dyadic.two_powers(2.0**51 + 1, 0)
    with pytest.raises(UsageError, match="within"):
        dyadic.two_powers(1e300, 1074)


@pytest.mark.parametrize(
    "call",
    [
        lambda: dyadic.split([np.nan]),
        lambda: dyadic.ratio(np.inf),
        lambda: dyadic.nearest([1.0], -1),
        lambda: dyadic.nearest([np.nan], 3),
        lambda: dyadic.multiplier([1.0], 54),
        lambda: dyadic.canonical_signed_digits([0.5]),
        lambda: dyadic.adders([-(2**63)]),
        lambda: dyadic.two_powers([1.0], 1075),
    ],
)
def test_wrong_arguments_are_refused(call):
    with pytest.raises(UsageError):
        call()
