"""The Stern-Brocot tree: the simplest fraction within a tolerance, paths, mediants.

R. L. Graham, D. E. Knuth, O. Patashnik, Concrete Mathematics (1994), section 4.5. Of the fractions in an interval
the *simplest* is the one nearest to the root, and then 0: it has both the smallest denominator and, of those with
it, the smallest magnitude.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mediant.errors import UsageError
from mediant.numbers.arrays import Doubles, Integers, finite_doubles, narrowed, objects, place
from mediant.numbers.continued_fractions import partial_quotients
from mediant.numbers.dyadic import split

Path = tuple[tuple[str, int], ...]

# Floating point decides whether a distance is within the tolerance, unless the two agree to 2^-50: three roundings,
# of 2^-53 each, cannot bridge more.
_UNDECIDED = 2.0**-50


def simplest_within(x: ArrayLike, eps: ArrayLike) -> tuple[Integers, Integers]:
    """Returns the simplest fraction p/q with |x - p/q| <= eps, exactly: error control.

    Args:
        x: finite doubles.
        eps: finite doubles from 0; broadcasts against x.

    Returns:
        p and q, in lowest terms and the common shape; int64, or an array of Python integers where one does not fit.

    Raises:
        UsageError: a value is not a finite double, or a tolerance is negative.

    >>> [part.tolist() for part in simplest_within([3.141592653589793, -0.3, 1e-9], 0.01)]
    [[22, -3, 0], [7, 10, 1]]
    """
    centre, tolerance = np.broadcast_arrays(finite_doubles(x), _tolerances(eps))
    shape, centre, tolerance = centre.shape, centre.ravel(), tolerance.ravel()
    magnitude = np.abs(centre)
    _, exponent = split(magnitude)
    outside = magnitude > tolerance
    small = outside & (magnitude < 2**53) & (exponent >= -62)
    p, q = np.zeros(len(centre), np.int64), np.ones(len(centre), np.int64)
    p[small], q[small] = _first_within(magnitude[small], tolerance[small])
    p = np.where(np.signbit(centre), -p, p)
    wide = np.flatnonzero(outside & ~small)
    exact_p, exact_q = _with_exact(p, q, wide, centre, tolerance)
    return exact_p.reshape(shape), exact_q.reshape(shape)


def simplest_between(low: Fraction, high: Fraction) -> Fraction:
    """Returns the simplest fraction in [low, high].

    Raises:
        UsageError: low is above high.

    >>> simplest_between(Fraction(31, 100), Fraction(32, 100))
    Fraction(5, 16)
    """
    if low > high:
        raise UsageError(f"No fraction lies between {low} and {high}: the first must not be above the second.")
    if low <= 0 <= high:
        return Fraction(0)
    if high < 0:
        return -simplest_between(-high, -low)
    # Both ends share their partial quotients up to where the answer's expansion ends.
    quotients = [-(-low // 1)]
    while quotients[-1] > high:
        whole = low // 1
        low, high = 1 / (high - whole), 1 / (low - whole)
        quotients[-1:] = [whole, -(-low // 1)]
    best = Fraction(quotients.pop())
    while quotients:
        best = quotients.pop() + 1 / best
    return best


def path(fraction: Fraction) -> Path:
    """Returns the way from the root 1/1 to a positive fraction as runs: R to the right, L to the left; empty for 1.

    The run lengths are the partial quotients, the last less one; a leading run of length 0 is left out.

    Raises:
        UsageError: the fraction is not positive.

    >>> path(Fraction(5, 7))
    (('L', 1), ('R', 2), ('L', 1))
    """
    if fraction <= 0:
        raise UsageError(f"{fraction} has no Stern-Brocot path; the tree holds the positive fractions.")
    lengths = partial_quotients(fraction).tolist()
    lengths[-1] -= 1
    return tuple(("RL"[i % 2], int(n)) for i, n in enumerate(lengths) if n)


def at(runs: Path) -> Fraction:
    """Returns the fraction at the end of a path; the inverse of `path`.

    >>> at((("L", 1), ("R", 2), ("L", 1)))
    Fraction(5, 7)
    """
    low, high = (0, 1), (1, 0)
    for direction, length in runs:
        if direction == "R":
            low = (low[0] + length * high[0], low[1] + length * high[1])
        else:
            high = (high[0] + length * low[0], high[1] + length * low[1])
    return Fraction(low[0] + high[0], low[1] + high[1])


def mediant(left: Fraction, right: Fraction) -> Fraction:
    """(a + c) / (b + d) of a/b and c/d in lowest terms; it lies between them.

    >>> mediant(Fraction(1, 3), Fraction(1, 2))
    Fraction(2, 5)
    """
    return Fraction(left.numerator + right.numerator, left.denominator + right.denominator)


def _tolerances(eps: ArrayLike) -> Doubles:
    tolerance = finite_doubles(eps, "eps")
    if np.any(tolerance < 0):
        first = np.argmax(tolerance < 0)
        raise UsageError(f"eps{place(first, tolerance.shape)} is {tolerance.flat[first]}; it must not be negative.")
    return tolerance


def _with_exact(
    p: NDArray[np.int64], q: NDArray[np.int64], rows: NDArray[np.intp], x: Doubles, eps: Doubles
) -> tuple[Integers, Integers]:
    """Replaces the given rows of p and q by what Python integers give."""
    if not len(rows):
        return p, q
    values, tolerances = x[rows].tolist(), eps[rows].tolist()
    pairs = zip(map(Fraction, values), map(Fraction, tolerances), strict=True)
    best = [simplest_between(v - e, v + e) for v, e in pairs]
    exact_p, exact_q = p.astype(object), q.astype(object)
    exact_p[rows] = objects([f.numerator for f in best], (len(best),))
    exact_q[rows] = objects([f.denominator for f in best], (len(best),))
    return narrowed(exact_p), narrowed(exact_q)


def _first_within(x: Doubles, eps: Doubles) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For x > eps, x < 2^53 a multiple of 2^-62: the first node within eps on x's path.

    The interval holds x, so its simplest fraction lies on the path to x, whose nodes are (p0 + k p1) / (q0 + k q1)
    with 1 <= k <= a between convergents. The distance to x is v / (2^places q), v = n - k d, and falls along the
    path where it stays on one side of x.
    """
    odd, exponent = split(x)
    places = np.maximum(-exponent, 0)
    one, zero = np.ones_like(odd), np.zeros_like(odd)
    state = np.stack([odd << np.maximum(exponent, 0), one << places, zero, one, one, zero])
    index = np.arange(len(x))
    found = np.zeros_like(state)
    while len(index):
        n, d, p0, q0, p1, q1 = state
        a = n // d
        p2, q2 = p0 + a * p1, q0 + a * q1
        stop = _within(n - a * d, q2, places[index], eps[index])
        found[:, index[stop]] = state[:, stop]
        state, index = np.stack([d, n - a * d, p1, q1, p2, q2])[:, ~stop], index[~stop]
    k = _first_step(found, places, eps)
    return found[2] + k * found[4], found[3] + k * found[5]


def _first_step(state: NDArray[np.int64], places: NDArray[np.int64], eps: Doubles) -> NDArray[np.int64]:
    """Returns the smallest k from 1 to n // d whose node is within eps, by bisection; n // d is known to be."""
    n, d, _, q0, _, q1 = state
    low: NDArray[np.int64] = np.ones_like(n)
    high: NDArray[np.int64] = n // d
    while np.any(low < high):
        k = (low + high) // 2
        near = _within(n - k * d, q0 + k * q1, places, eps)
        low, high = np.where(near, low, np.minimum(k + 1, high)), np.where(near, k, high)
    return high


def _within(v: NDArray[np.int64], q: NDArray[np.int64], places: NDArray[np.int64], eps: Doubles) -> NDArray[np.bool_]:
    """Returns True if v / (2^places q) <= eps, exactly."""
    distance = v / np.ldexp(q.astype(np.float64), places)
    near: NDArray[np.bool_] = distance <= eps
    for i in np.flatnonzero(np.abs(distance - eps) <= _UNDECIDED * distance):
        near[i] = Fraction(int(v[i]), int(q[i]) << int(places[i])) <= Fraction(eps[i])
    return near
