"""The Stern-Brocot tree against brute force over denominators."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mediant.errors import UsageError
from mediant.numbers.stern_brocot import at, mediant, path, simplest_between, simplest_within

DOUBLES = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.fractions(min_value=Fraction(1, 10**9), max_value=10**9)


def simplest_by_search(low, high):
    """The smallest denominator first, then the smallest magnitude."""
    for q in range(1, 10**4):
        first, last = math.ceil(low * q), math.floor(high * q)
        if first <= last:
            return Fraction(min(range(first, last + 1), key=abs) if last - first < 10**4 else 0, q)
    raise AssertionError("the interval is too narrow to search")


@given(st.fractions(-20, 20), st.fractions(Fraction(1, 500), 3))
def test_simplest_between_is_what_a_search_finds(centre, radius):
    low, high = centre - radius, centre + radius
    assert simplest_between(low, high) == simplest_by_search(low, high)


@given(st.fractions())
def test_a_point_is_its_own_simplest(x):
    assert simplest_between(x, x) == x


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=6), st.floats(1e-3, 60))
@example([0.75, -0.75, 0.25, -0.25], 0.25)
@example([1.0, 2.0, 3.5, 2.0**-40], 0.5)
def test_simplest_within_is_what_a_search_finds(values, eps):
    p, q = simplest_within(values, eps)
    for x, a, b in zip(values, p.tolist(), q.tolist(), strict=True):
        expected = simplest_by_search(Fraction(x) - Fraction(eps), Fraction(x) + Fraction(eps))
        assert Fraction(a, b) == expected
        assert (a, b) == expected.as_integer_ratio()


@given(st.lists(st.tuples(DOUBLES, DOUBLES.map(abs)), max_size=6))
@example([(1e308, 5e-324), (5e-324, 0.0), (0.1, 0.0), (1.0, 1e308), (-1e300, 1e299)])
@example([(2.0**53 + 2, 0.5), (2.0**-62, 2.0**-63), (2.0**-63, 2.0**-64)])
def test_simplest_within_for_every_double(pairs):
    """Against the scalar search by continued fractions, which is another algorithm."""
    x, eps = [v for v, _ in pairs], [e for _, e in pairs]
    p, q = simplest_within(x, eps)
    for v, e, a, b in zip(x, eps, p.tolist(), q.tolist(), strict=True):
        assert (a, b) == simplest_between(Fraction(v) - Fraction(e), Fraction(v) + Fraction(e)).as_integer_ratio()


@given(st.integers(1, 2**20), st.integers(1, 2**6), st.integers(0, 40), st.sampled_from([-1, 0, 1]))
def test_simplest_within_where_the_tolerance_is_just_met_or_missed(n, simple, places, units):
    """Within 2^-52 of the tolerance floating point cannot tell; here the distance is the tolerance, or beside it."""
    x, target = n / 2**places, Fraction(simple, 64)
    distance = float(abs(Fraction(x) - target))
    eps = max(0.0, distance + units * np.spacing(distance))
    p, q = (int(part) for part in simplest_within(x, eps))
    assert Fraction(p, q) == simplest_between(Fraction(x) - Fraction(eps), Fraction(x) + Fraction(eps))


def test_simplest_within_broadcasts():
    p, q = simplest_within(np.array([[0.3], [math.pi]]), [0.5, 0.01])
    assert p.tolist() == [[0, 3], [3, 22]]
    assert q.tolist() == [[1, 10], [1, 7]]
    assert p.dtype == np.int64
    assert simplest_within(np.zeros((0, 2)), 0.1)[0].shape == (0, 2)
    assert simplest_within([1e300, 0.5], 0.1)[0].dtype == object


@pytest.mark.parametrize(
    ("x", "eps", "what"),
    [([np.nan], 0.1, "x"), ([0.5], np.inf, "eps"), ([0.5, 1], [0.1, -0.1], r"eps\[1\] is -0.1")],
)
def test_wrong_values_are_refused(x, eps, what):
    with pytest.raises(UsageError, match=what):
        simplest_within(x, eps)


def walk(fraction):
    """The path by descent, one letter a step."""
    low, high, letters = (0, 1), (1, 0), ""
    while True:
        middle = (low[0] + high[0], low[1] + high[1])
        if Fraction(*middle) == fraction:
            return letters
        if fraction > Fraction(*middle):
            low, letters = middle, letters + "R"
        else:
            high, letters = middle, letters + "L"


@given(st.integers(1, 60), st.integers(1, 60))
def test_the_path_is_the_descent(p, q):
    fraction = Fraction(p, q)
    assert "".join(direction * length for direction, length in path(fraction)) == walk(fraction)


@given(POSITIVE)
def test_a_path_leads_back(fraction):
    assert at(path(fraction)) == fraction
    assert all(length > 0 for _, length in path(fraction))
    directions = [direction for direction, _ in path(fraction)]
    assert all(a != b for a, b in itertools.pairwise(directions))


@pytest.mark.parametrize("fraction", [Fraction(0), Fraction(-1, 2)])
def test_only_positive_fractions_have_a_path(fraction):
    with pytest.raises(UsageError, match="path"):
        path(fraction)


@given(POSITIVE, POSITIVE)
def test_the_mediant_lies_between(left, right):
    assume(left < right)
    assert left < mediant(left, right) < right


def test_the_mediant_of_neighbours_is_the_simplest_between():
    left, right = Fraction(3, 7), Fraction(4, 9)
    gap = (right - left) / 1000
    assert mediant(left, right) == simplest_between(left + gap, right - gap) == Fraction(7, 16)


def test_an_empty_interval_is_refused():
    with pytest.raises(UsageError, match="between"):
        simplest_between(Fraction(1), Fraction(1, 2))
