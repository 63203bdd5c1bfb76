"""Linear Diophantine equations a x + b y = c, for arrays, exact in int64.

D. E. Knuth, The Art of Computer Programming 2, section 4.5.2, algorithm X (extended Euclid).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mediant.errors import UsageError
from mediant.numbers.arrays import integers, place

Int64 = NDArray[np.int64]


class Solutions(NamedTuple):
    """All solutions of a x + b y = c: (x + t step_x, y + t step_y) for every integer t.

    0 <= x < step_x, or step_x = 0 and step_y = 1 where b = 0. All int64: |y| <= max(|a|, |c|), since for b != 0
    |c / b| + |a| (|b| - 1) / |b| is no more.
    """

    x: Int64
    y: Int64
    step_x: Int64
    step_y: Int64


def extended_gcd(a: ArrayLike, b: ArrayLike) -> tuple[Int64, Int64, Int64]:
    """g, x, y with a x + b y = g = gcd(a, b) >= 0, elementwise.

    |x| <= max(1, |b| / 2g) and |y| <= max(1, |a| / 2g), so nothing overflows.

    Args:
        a: integers within ±(2^63 - 1).
        b: the same; broadcasts against a.

    Raises:
        UsageError: a value is not such an integer.

    >>> [int(part) for part in extended_gcd(240, 46)]
    [2, -9, 47]
    """
    first, second = np.broadcast_arrays(integers(a, "a"), integers(b, "b"))
    r0, r1 = np.abs(first), np.abs(second)
    x0, x1 = np.ones_like(r0), np.zeros_like(r0)
    y0, y1 = x1, x0
    while np.any(r1):
        live = r1 != 0
        quotient = np.where(live, r0 // np.where(live, r1, 1), 0)
        r0, r1 = np.where(live, r1, r0), np.where(live, r0 - quotient * r1, 0)
        x0, x1 = np.where(live, x1, x0), np.where(live, x0 - quotient * x1, x1)
        y0, y1 = np.where(live, y1, y0), np.where(live, y0 - quotient * y1, y1)
    return r0, np.where(first < 0, -x0, x0), np.where(second < 0, -y0, y0)


def solve(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Solutions:
    """Returns all integer solutions of a x + b y = c, elementwise.

    Args:
        a: integers within ±(2^63 - 1).
        b: the same.
        c: the same; all broadcast against each other.

    Raises:
        UsageError: a value is not such an integer, a and b are both 0, or gcd(a, b) does not divide c.

    >>> [int(part) for part in solve(6, 10, 8)]
    [3, -1, 5, -3]
    """
    coefficients = np.broadcast_arrays(integers(a, "a"), integers(b, "b"), integers(c, "c"))
    shape = coefficients[0].shape
    _refuse_unsolvable(*coefficients)
    # Scalars too as arrays: arithmetic on an array of one object would give a bare object.
    a, b, c = (part.reshape(-1) for part in coefficients)
    g, x, _ = extended_gcd(a, b)
    step_x, step_y = np.abs(b) // g, np.where(b == 0, 1, np.where(b < 0, a, -a) // g)
    if not _products_fit(a, b, c):
        a, b, c, x, step_x = (part.astype(object) for part in (a, b, c, x, step_x))
    along = b == 0
    particular = np.where(along, c // np.where(along, a, 1), x * (c // g) % np.where(along, 1, step_x))
    other = np.where(along, 0, (c - a * particular) // np.where(along, 1, b))
    return Solutions(*(part.astype(np.int64).reshape(shape) for part in (particular, other, step_x, step_y)))


def _refuse_unsolvable(a: Int64, b: Int64, c: Int64) -> None:
    g = np.gcd(a, b)
    unsolvable = (g == 0) | (c % np.maximum(g, 1) != 0)
    if not np.any(unsolvable):
        return
    first = np.argmax(unsolvable)
    equation = f"Equation{place(first, a.shape)} {a.flat[first]} x + {b.flat[first]} y = {c.flat[first]}"
    if np.ravel(g)[first] == 0:
        raise UsageError(f"{equation} has no unknowns: a or b must differ from 0.")
    raise UsageError(f"{equation} has no integer solution: gcd(a, b) = {np.ravel(g)[first]} does not divide c.")


def _products_fit(a: Int64, b: Int64, c: Int64) -> bool:
    """Returns True if x c / g and c - a x stay below 2^62, given |x| <= |b| + 1."""
    sizes = [float(np.abs(part).max(initial=0)) for part in (a, b, c)]
    return max(sizes[0], sizes[2]) * (sizes[1] + 1) < 2.0**61 and sizes[2] < 2.0**61
