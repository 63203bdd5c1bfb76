"""Farey sequences: F_N holds the fractions in lowest terms with denominators up to N.

G. H. Hardy, E. M. Wright, An Introduction to the Theory of Numbers, chapter III. `sequence` and `length` mean those
in [0, 1]; neighbours and nearest members are taken on the whole line, where F_N repeats with period 1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mediant.errors import UsageError
from mediant.numbers.arrays import Integers, integers, place, whole_number
from mediant.numbers.continued_fractions import limit_denominator
from mediant.numbers.diophantine import extended_gcd

Int64 = NDArray[np.int64]


def sequence(order: int) -> tuple[Int64, Int64]:
    """Numerators and denominators of F_order in [0, 1], ascending; about 3 order²/π² of them.

    Raises:
        UsageError: `order` is not from 1 to 5000, of which the members take 120 MB.

    >>> [part.tolist() for part in sequence(4)]
    [[0, 1, 1, 1, 2, 3, 1], [1, 4, 3, 2, 3, 4, 1]]
    """
    order = whole_number(order, "order", 1, 5000)
    parts = [np.flatnonzero(np.gcd(np.arange(q), q) == 1) for q in range(1, order + 1)]
    p = np.concatenate([*parts, [1]])
    q = np.concatenate([np.repeat(np.arange(1, order + 1), [len(part) for part in parts]), [1]])
    # Two members differ by at least 1 / order², so their quotients as doubles are in the same order.
    ascending = np.argsort(p / q)
    return p[ascending], q[ascending]


def length(order: int) -> int:
    """Returns the number of members of F_order in [0, 1]: 1 + φ(1) + ... + φ(order).

    Raises:
        UsageError: `order` is not from 1 to 10^7.

    >>> [length(n) for n in (1, 2, 3, 4, 5, 1000)]
    [2, 3, 5, 7, 11, 304193]
    """
    totient = np.arange(whole_number(order, "order", 1, 10**7) + 1)
    for n in range(2, len(totient)):
        if totient[n] == n:
            totient[n::n] -= totient[n::n] // n
    return 1 + int(totient.sum())


def neighbours(p: ArrayLike, q: ArrayLike, order: int) -> tuple[tuple[Int64, Int64], tuple[Int64, Int64]]:
    """Returns the members of F_order next below and next above p/q.

    Args:
        p: integers.
        q: integers from 1 to `order`, prime to p; broadcasts against p.
        order: N from 1 to 2^62.

    Returns:
        (numerators, denominators) of the left and of the right neighbours; p q' - p' q = 1 on the left, -1 on the
        right.

    Raises:
        UsageError: p/q is no member of F_order, or |p| times `order` exceeds 2^62.

    >>> [[int(part) for part in side] for side in neighbours(1, 2, 5)]
    [[2, 5], [3, 5]]
    """
    order = whole_number(order, "order", 1, 2**62)
    p, q = np.broadcast_arrays(integers(p, "p"), integers(q, "q"))
    _refuse_strangers(p, q, order)
    # p' q = p q' - 1: q' is the inverse of p modulo q, and the largest such up to the order.
    inverse = extended_gcd(p % q, q)[1] % q
    left, right = order - (order - inverse) % q, order - (order + inverse) % q
    return ((p * left - 1) // q, left), ((p * right + 1) // q, right)


def nearest(x: ArrayLike, order: int) -> tuple[Integers, Integers]:
    """Returns the member of F_order nearest to x, on the whole line: the best fraction with that denominator at most.

    Raises:
        UsageError: a value is not a finite double, or `order` is below 1.

    >>> [int(part) for part in nearest(0.3, 5)]
    [1, 3]
    """
    return limit_denominator(x, whole_number(order, "order", 1))


def common_denominator(order: int) -> int:
    """lcm(1, ..., order), over which all of F_order are integers: 60 for order 6, the last that suits int8.

    Raises:
        UsageError: `order` is below 1.

    >>> [common_denominator(n) for n in (1, 2, 3, 4, 5, 6, 7)]
    [1, 2, 6, 12, 60, 60, 420]
    """
    return math.lcm(*range(1, whole_number(order, "order", 1) + 1))


def _refuse_strangers(p: Int64, q: Int64, order: int) -> None:
    stranger = (q < 1) | (q > order) | (np.gcd(p, q) != 1)
    if np.any(stranger):
        first = np.argmax(stranger)
        raise UsageError(
            f"{p.flat[first]}/{q.flat[first]}, at p{place(first, p.shape)}, is no member of F_{order}: it takes"
            f" lowest terms and a denominator from 1 to {order}."
        )
    if int(np.abs(p).max(initial=0)) * order > 2**62:
        raise UsageError(f"|p| times the order must not exceed 2^62; the order is {order}.")
