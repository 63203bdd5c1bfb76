"""Farey sequences against their definition and their theorems."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.errors import UsageError
from mediant.numbers import farey


@pytest.mark.parametrize("order", range(1, 41))
def test_the_sequence_is_its_definition(order):
    p, q = farey.sequence(order)
    members = sorted({Fraction(n, d) for d in range(1, order + 1) for n in range(d + 1)})
    assert [Fraction(a, b) for a, b in zip(p.tolist(), q.tolist(), strict=True)] == members
    assert (np.gcd(p, q) == 1).all()
    assert len(members) == farey.length(order)


@pytest.mark.parametrize("order", [1, 2, 7, 100, 700])
def test_neighbours_in_the_sequence_have_determinant_one(order):
    p, q = farey.sequence(order)
    assert (p[1:] * q[:-1] - p[:-1] * q[1:] == 1).all()
    assert (q[1:] + q[:-1] > order).all()


@pytest.mark.parametrize("order", [1, 2, 3, 10, 61])
def test_neighbours_are_the_next_in_the_sequence(order):
    p, q = farey.sequence(order)
    (left_p, left_q), (right_p, right_q) = farey.neighbours(p, q, order)
    assert (left_p[1:] == p[:-1]).all()
    assert (left_q[1:] == q[:-1]).all()
    assert (right_p[:-1] == p[1:]).all()
    assert (right_q[:-1] == q[1:]).all()
    # Beyond 0 and 1 it goes on with period 1.
    assert Fraction(int(left_p[0]), int(left_q[0])) == Fraction(-1, order)
    assert Fraction(int(right_p[-1]), int(right_q[-1])) == 1 + Fraction(1, order)


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**6), st.integers(0, 10**6))
def test_neighbours_anywhere(n, d, more):
    fraction = Fraction(n, d)
    p, q = fraction.as_integer_ratio()
    order = q + more
    for (a, b), sign in zip(farey.neighbours(p, q, order), (1, -1), strict=True):
        assert p * int(b) - int(a) * q == sign
        assert 1 <= b <= order < b + q


def test_strangers_have_no_neighbours():
    for p, q, order in ((2, 4, 5), (1, 6, 5), (1, 0, 5), (1, -2, 5)):
        with pytest.raises(UsageError, match=r"at p\[1\], is no member"):
            farey.neighbours([1, p], [1, q], order)
    with pytest.raises(UsageError, match=r"2\^62"):
        farey.neighbours(2**40, 1, 2**40)


@given(st.floats(0, 1), st.integers(1, 50))
def test_the_nearest_member_is_nearest(x, order):
    p, q = (int(part) for part in farey.nearest(x, order))
    members = farey.sequence(order)
    distances = [abs(Fraction(a, b) - Fraction(x)) for a, b in zip(*(m.tolist() for m in members), strict=True)]
    assert abs(Fraction(p, q) - Fraction(x)) == min(distances)


@pytest.mark.parametrize("order", range(1, 31))
def test_the_common_denominator_is_common_and_least(order):
    common = farey.common_denominator(order)
    assert all(common % q == 0 for q in range(1, order + 1))
    primes = [n for n in range(2, order + 1) if all(n % d for d in range(2, n))]
    # Divided by any prime it no longer serves all.
    assert all(any((common // r) % q for q in range(1, order + 1)) for r in primes)
    assert common == math.prod(r ** int(math.log(order + 0.5, r)) for r in primes)


def test_the_length_grows_as_three_over_pi_squared():
    """|length(N) - 3N²/π²| < N log N + N, a crude form of Mertens' bound."""
    for order in (10, 1000, 10**5):
        assert abs(farey.length(order) - 3 * order**2 / math.pi**2) < order * math.log(order) + order


@pytest.mark.parametrize("call", [farey.sequence, farey.length, farey.common_denominator])
def test_orders_start_at_one(call):
    with pytest.raises(UsageError, match="order"):
        call(0)
