"""Continued fractions of doubles against Euclid on Python integers and `Fraction.limit_denominator`."""

import math
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mediant.errors import UsageError
from mediant.numbers.continued_fractions import convergents, limit_denominator, partial_quotients
from mediant.numbers.dyadic import ratio

DOUBLES = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=True)
MODERATE = st.floats(-1e6, 1e6)
BOUNDS = st.one_of(st.integers(1, 100), st.integers(1, 2**62), st.integers(1, 2**70))


def by_fraction(values, bound):
    return [Fraction(x).limit_denominator(bound) for x in values]


def differences(values, bound, p, q):
    """Indices where p/q, taken apart, is not what `Fraction` says."""
    pairs = zip(by_fraction(values, bound), np.ravel(p).tolist(), np.ravel(q).tolist(), strict=True)
    return [i for i, (f, a, b) in enumerate(pairs) if (f.numerator, f.denominator) != (a, b)]


def euclid(x):
    n, d = Fraction(x).as_integer_ratio()
    quotients = []
    while d:
        quotients.append(n // d)
        n, d = d, n % d
    return quotients


@given(st.lists(DOUBLES | MODERATE, min_size=1, max_size=5))
def test_partial_quotients_are_euclids(values):
    rows = partial_quotients(values).tolist()
    for x, row in zip(values, rows, strict=True):
        assert row[: len(euclid(x))] == euclid(x)
        assert not any(row[len(euclid(x)) :])


def test_partial_quotients_in_their_shapes():
    assert partial_quotients(0.0).tolist() == [0]
    assert partial_quotients(Fraction(-355, 113)).tolist() == [-4, 1, 6, 16]
    assert partial_quotients(np.full((2, 3), math.pi), terms=4).shape == (2, 3, 4)
    assert partial_quotients(np.full((2, 3), math.pi), terms=4).dtype == np.int64
    assert partial_quotients(5e-324).tolist() == [0, 2**1074]
    assert partial_quotients(np.zeros((0, 2))).shape == (0, 2, 0)
    with pytest.raises(UsageError, match="terms"):
        partial_quotients(1.5, terms=0)


@given(DOUBLES | MODERATE)
def test_convergents_are_the_best_of_the_second_kind(x):
    """p_k q_{k-1} - p_{k-1} q_k = (-1)^{k-1}, and |x - p_k/q_k| < 1/(q_k q_{k+1}) until the last, which is x."""
    p, q = (part.tolist() for part in convergents(partial_quotients(x)))
    assert Fraction(p[-1], q[-1]) == Fraction(x)
    for k in range(1, len(p)):
        assert p[k] * q[k - 1] - p[k - 1] * q[k] == (-1) ** (k - 1)
        assert abs(Fraction(x) - Fraction(p[k - 1], q[k - 1])) <= Fraction(1, q[k - 1] * q[k])


def test_convergents_repeat_the_last_and_grow_into_objects():
    p, q = convergents(partial_quotients([0.5, 0.375]))
    assert p.tolist() == [[0, 1, 1, 1], [0, 1, 1, 3]]
    assert q.tolist() == [[1, 2, 2, 2], [1, 2, 3, 8]]
    p, q = convergents([2**40, 2**40, 2**40])
    assert p.tolist()[-1] == 2**120 + 2 * 2**40
    assert convergents(np.zeros((2, 0), int))[0].shape == (2, 0)
    # The golden ratio's are Fibonacci numbers; the 200th has 42 digits.
    p, q = convergents(np.ones(200, int))
    assert (p[-1], q[-1]) == (453973694165307953197296969697410619233826, 280571172992510140037611932413038677189525)


@given(st.lists(DOUBLES, max_size=8), BOUNDS)
@example([0.0, -0.0, 5e-324, -5e-324, 2.0**-64, 2.0**63, -(2.0**63), 1.7976931348623157e308], 2**62)
@example([0.5, -0.5, 1.5, -1.5, 2.5], 1)
@example([2.0**-62, 2.0**-63, 3 * 2.0**-64, -(2.0**-62)], 2**63 - 1)
@example([2.0**-62, 5e-324], 2**63)
def test_every_double_is_as_fraction_says(values, bound):
    assert differences(values, bound, *limit_denominator(values, bound)) == []


@given(st.lists(st.integers(0, 2**64 - 1), max_size=8), BOUNDS)
def test_every_bit_pattern_is_as_fraction_says(patterns, bound):
    values = [struct.unpack("d", struct.pack("Q", n))[0] for n in patterns]
    values = [v for v in values if math.isfinite(v)]
    assert differences(values, bound, *limit_denominator(values, bound)) == []


@given(st.lists(MODERATE | st.floats(-1, 1), max_size=8), BOUNDS)
def test_moderate_doubles_are_as_fraction_says(values, bound):
    assert differences(values, bound, *limit_denominator(values, bound)) == []


SMALL = sorted({Fraction(p, q) for q in range(1, 61) for p in range(q + 1)})


def test_all_small_fractions_under_all_small_bounds():
    """Doubles nearest to all p/q in [0, 1] with q <= 60, for N = 1..60."""
    values = [float(f) for f in SMALL]
    for bound in range(1, 61):
        p, q = limit_denominator(values, bound)
        expected = [f.limit_denominator(bound) if f.denominator > bound else f for f in SMALL]
        # A double beside a tie decides it, so there `Fraction` of the double itself is asked.
        wrong = [i for i, f in enumerate(expected) if (p[i], q[i]) != f.as_integer_ratio()]
        assert differences([values[i] for i in wrong], bound, p[wrong], q[wrong]) == []
        assert all(_tied(SMALL[i], bound) for i in wrong)


def _tied(x, bound):
    """Whether x is exactly midway between two members of F_bound."""
    best = x.limit_denominator(bound)
    other = 2 * x - best
    return best != x and other.denominator <= bound


def test_negatives_mirror_except_for_ties_of_integers():
    values = np.array([float(f) for f in SMALL])
    for bound in range(1, 61):
        p, q = limit_denominator(-values, bound)
        assert differences((-values).tolist(), bound, p, q) == []
    assert [part.tolist() for part in limit_denominator([0.5, -0.5, 2.5, -2.5], 1)] == [[0, -1, 2, -3], [1] * 4]


@pytest.mark.parametrize("k", range(12))
def test_ties_between_neighbours_go_to_the_smaller_denominator(k):
    """The only doubles midway between neighbours of an F_N: n ± 2^-(k+1) for N = 2^k."""
    ties = [n + s * 2.0 ** -(k + 1) for n in (-3, 0, 7) for s in (1, -1)]
    p, q = limit_denominator(ties, 2**k)
    assert differences(ties, 2**k, p, q) == []
    assert q.tolist() == [1] * len(ties)


@given(st.floats(0, 1), st.integers(1, 30))
def test_nothing_with_a_denominator_up_to_the_bound_is_nearer(x, bound):
    """By brute force, with no continued fraction."""
    p, q = (int(part) for part in limit_denominator(x, bound))
    assert 1 <= q <= bound
    assert math.gcd(p, q) == 1
    rivals = (Fraction(n, d) for d in range(1, bound + 1) for n in range(d + 1))
    assert abs(Fraction(x) - Fraction(p, q)) == min(abs(Fraction(x) - r) for r in rivals)


def test_types_of_the_result():
    for values, bound, p_type, q_type in (
        ([0.1, 2.0**62], 2**62, np.int64, np.int64),
        ([0.1, 2.0**63], 5, object, np.int64),
        ([0.1, 0.3], 2**70, np.int64, np.int64),
        ([2.0**-70], 2**70, np.int64, object),
    ):
        p, q = limit_denominator(values, bound)
        assert (p.dtype, q.dtype) == (p_type, q_type)
        assert differences(values, bound, p, q) == []


def test_shapes_of_the_result():
    for shape in ((), (0,), (3, 0), (2, 3)):
        assert all(part.shape == shape for part in limit_denominator(np.full(shape, 0.3), 7))


@pytest.mark.parametrize(("values", "bound"), [([np.nan], 5), ([np.inf], 5), ([0.5], 0), ([0.5], -1), ([0.5], 1.5)])
def test_wrong_arguments_are_refused(values, bound):
    with pytest.raises(UsageError):
        limit_denominator(values, bound)


def test_the_comparison_with_fraction_can_fail():
    values, bound = [math.pi, -0.3, 0.5, 1.5], 1
    p, q = limit_denominator(values, bound)
    assert differences(values, bound, p, q) == []
    for i in range(4):
        off = np.arange(4) == i
        assert differences(values, bound, p + off, q) == [i]
        assert differences(values, bound, p, q + off) == [i]
        assert differences(values, bound, np.where(off, 2 * p, p), np.where(off, 2 * q, q)) == [i]
    assert differences(values, bound, -p, q) == [0, 3]
    # The other end of a tie is as near, and still wrong.
    assert differences([0.5, 1.5], 1, [1, 2], [1, 1]) == [0, 1]


def test_ratio_of_doubles_is_what_the_expansion_means():
    values = [math.pi, 1e-5, -2.75]
    p, q = convergents(partial_quotients(values))
    numerator, denominator = ratio(values)
    assert (p[:, -1] == numerator).all()
    assert (q[:, -1] == denominator).all()
