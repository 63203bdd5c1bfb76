"""Continued fractions of doubles, exact: partial quotients, convergents, and the best fraction p/q with q <= N.

x = a_0 + 1/(a_1 + 1/(a_2 + ...)), with convergents p_k / q_k. For the theory: A. Ya. Khinchin, Continued Fractions
(1964), sections 2 and 6; D. E. Knuth, The Art of Computer Programming 2, section 4.5.3.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mediant.numbers.arrays import INT64_MAX, Doubles, Integers, finite_doubles, narrowed, objects, whole_number
from mediant.numbers.dyadic import ratio, split

Unsigned = NDArray[np.uint64]

# Stands for every partial quotient from 2^64 - 1 on; more than twice any denominator, it decides as they would.
_HUGE = np.uint64(2**64 - 1)
# A quotient 2^places / rest with rest < 2^53 is huge from here on.
_HUGE_PLACES = 64 + 53


def partial_quotients(x: ArrayLike | Fraction, terms: int | None = None) -> Integers:
    """a_0, a_1, ... of x as the exact rational that it is, by Euclid's algorithm.

    Args:
        x: finite doubles of any shape [...], or one Fraction.
        terms: how many at most; None for all.

    Returns:
        [..., terms], the last a_k of an expansion at least 2 (unless k = 0), 0 after its end. int64 if all |x| < 2^63
        are multiples of 2^-62, else objects that are Python integers.

    Raises:
        UsageError: a value is neither a finite double nor a Fraction, or `terms` is below 1.

    >>> partial_quotients(-1.375).tolist()
    [-2, 1, 1, 1, 2]
    """
    limit = np.inf if terms is None else whole_number(terms, "terms", 1)
    numerator, denominator = ratio(x)
    shape = numerator.shape
    numerator, denominator = numerator.reshape(-1), denominator.reshape(-1)
    quotients: list[Integers] = []
    while np.any(denominator) and len(quotients) < limit:
        live = denominator != 0
        quotient = np.where(live, numerator // np.where(live, denominator, 1), 0)
        numerator, denominator = denominator, np.where(live, numerator - quotient * denominator, 0)
        quotients.append(quotient)
    columns = np.stack(quotients, axis=-1) if quotients else np.zeros((0, 0), np.int64)
    return columns.reshape(*shape, len(quotients))


def convergents(quotients: ArrayLike) -> tuple[Integers, Integers]:
    """p_k and q_k from partial quotients; after the end of an expansion its last convergent is repeated.

    Args:
        quotients: integers [..., terms] as `partial_quotients` gives them.

    Returns:
        p and q [..., terms]; int64, or objects where one may reach 2^62.

    >>> [part.tolist() for part in convergents([3, 7, 15, 1])]
    [[3, 22, 333, 355], [1, 7, 106, 113]]
    """
    a = np.asarray(quotients)
    if a.shape[-1] == 0:
        return a, a
    return _recurrence(a.astype(np.int64) if _stays_small(a) else a.astype(object))


def limit_denominator(x: ArrayLike, max_denominator: int) -> tuple[Integers, Integers]:
    """Returns the fraction p/q nearest to each x with 1 <= q <= max_denominator; the NumPy twin of the native kernel.

    Equal to `fractions.Fraction(x).limit_denominator(max_denominator)` for every finite double: of two equally near
    fractions the one with the smaller denominator, and of two integers the lower.

    Args:
        x: finite doubles of any shape.
        max_denominator: N, any integer from 1; from 2^63 on by `Fraction` itself, slowly.

    Returns:
        p and q, in lowest terms and x's shape, each int64, or an array of Python integers where one does not fit:
        p where some |x| >= 2^63, either where N >= 2^63.

    Raises:
        UsageError: a value is not a finite double, or `max_denominator` is not an integer from 1.

    >>> [part.tolist() for part in limit_denominator([3.141592653589793, -0.3], 10)]
    [[22, -3], [7, 10]]
    """
    doubles = finite_doubles(x)
    bound = whole_number(max_denominator, "max_denominator", 1)
    if bound > INT64_MAX:
        return _by_fractions(doubles, bound)
    p, q = _limited(doubles.ravel(), bound)
    return with_large_integers(p.reshape(doubles.shape), doubles), q.reshape(doubles.shape)


def with_large_integers(p: NDArray[np.int64], x: Doubles) -> Integers:
    """Returns the numerators p, with x itself where |x| >= 2^63: such a double is an integer, too large for int64."""
    large = np.abs(x) >= 2**63
    if not np.any(large):
        return p
    exact = p.astype(object)
    exact[large] = np.frompyfunc(int, 1, 1)(x[large])
    return exact


def _by_fractions(x: Doubles, bound: int) -> tuple[Integers, Integers]:
    best = [Fraction(v).limit_denominator(bound) for v in x.ravel().tolist()]
    p, q = [f.numerator for f in best], [f.denominator for f in best]
    return narrowed(objects(p, x.shape)), narrowed(objects(q, x.shape))


def _limited(x: Doubles, bound: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`limit_denominator` of x [count], with p = 0 where |x| >= 2^63, by magnitude.

    Negation mirrors everything but the choice between two integers equally near, which N = 1 alone allows.
    """
    negative, (odd, exponent) = np.signbit(x), split(np.where(np.abs(x) < 2**63, np.abs(x), 0))
    places = np.maximum(-exponent, 0)
    p, q = odd << np.maximum(exponent, 0), np.int64(1) << np.minimum(places, 62)
    between = np.flatnonzero((places > 62) | (q > bound))
    prefer_upper = negative[between] & (bound == 1)
    p[between], q[between] = _expanded(odd[between], places[between], bound, prefer_upper)
    return np.where(negative, -p, p), q


def _expanded(
    odd: NDArray[np.int64], places: NDArray[np.int64], bound: int, prefer_upper: NDArray[np.bool_]
) -> tuple[Unsigned, Unsigned]:
    """Nearest p/q to odd / 2^places > 0 with q <= bound < 2^places: Euclid's algorithm until q would pass."""
    numerator, power = odd.astype(np.uint64), places.astype(np.uint64)
    whole = numerator >> np.minimum(power, 63)
    divisor = numerator - (whole << np.minimum(power, 63))
    quotient, rest = _divided_power_of_two(power, divisor)
    one, zero = np.ones_like(whole), np.zeros_like(whole)
    state = np.stack([quotient, divisor, rest, one, zero, whole, one])
    index = np.arange(len(odd))
    p, q = np.zeros_like(whole), np.zeros_like(whole)
    while len(index):
        a, d, r, p0, q0, p1, q1 = state
        k = (np.uint64(bound) - q0) // q1
        stop = a > k
        p[index[stop]], q[index[stop]] = _nearer(state[:, stop], k[stop], prefer_upper[index[stop]])
        state, index = state[:, ~stop], index[~stop]
        a, d, r, p0, q0, p1, q1 = state
        state = np.stack([d // r, r, d % r, p1, q1, p0 + a * p1, q0 + a * q1])
    return p, q


def _nearer(state: Unsigned, k: Unsigned, prefer_upper: NDArray[np.bool_]) -> tuple[Unsigned, Unsigned]:
    """Returns the nearer of the last convergent p1/q1 and the semiconvergent (p0 + k p1) / (q0 + k q1) on the other
    side.

    With d the divisor and r the rest of the quotient a > k that stopped, x divides the gap between them in the ratio
    d (q0 + k q1) to q1 ((a - k) d + r), so p1/q1 is as near as the other if and only if
    d q0 <= q1 ((a - 2k) d + r). As q0 <= q1 and r < d, only a = 2k takes a product.
    """
    a, d, r, p0, q0, p1, q1 = state
    last = a - k > k
    even = np.flatnonzero(a - k == k)
    left, right = d[even].astype(object) * q0[even], r[even].astype(object) * q1[even]
    last[even] = (left < right) | ((left == right) & ~prefer_upper[even])
    return np.where(last, p1, p0 + k * p1), np.where(last, q1, q0 + k * q1)


def _divided_power_of_two(places: Unsigned, divisor: Unsigned) -> tuple[Unsigned, Unsigned]:
    """Quotient, at most _HUGE, and rest of 2^places / divisor < 2^53 by long division, 11 bits at a time.

    The rest is of no use where the quotient is _HUGE.
    """
    power = np.uint64(1) << np.minimum(places, 63)
    quotient, rest = power // divisor, power % divisor
    quotient = np.where(places < _HUGE_PLACES, quotient, _HUGE)
    left = np.where(quotient == _HUGE, 0, places - np.minimum(places, 63))
    while np.any(left):
        step = np.minimum(left, 11)
        shifted = rest << step
        fits = quotient <= _HUGE >> step
        quotient = np.where(fits, (quotient << step) + shifted // divisor, _HUGE)
        rest, left = shifted % divisor, left - step
    return quotient, rest


def _stays_small(quotients: Integers) -> bool:
    """Returns True if no convergent reaches 2^62, by the same recurrence in floating point."""
    if quotients.dtype == object:
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        p, q = _recurrence(np.abs(quotients).astype(np.float64))
    return bool(max(p.max(initial=0), q.max(initial=0)) < 2**62)


def _recurrence(a: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    p, q = [np.ones_like(a[..., 0]), a[..., 0]], [np.zeros_like(a[..., 0]), np.ones_like(a[..., 0])]
    for k in range(1, a.shape[-1]):
        live = a[..., k] != 0
        p.append(np.where(live, a[..., k] * p[-1] + p[-2], p[-1]))
        q.append(np.where(live, a[..., k] * q[-1] + q[-2], q[-1]))
    return np.stack(p[1:], axis=-1), np.stack(q[1:], axis=-1)
