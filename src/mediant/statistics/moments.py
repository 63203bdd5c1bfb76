"""Range, mean, spread and shape of a tensor's values, in one pass and in pieces that can be merged.

Sums of powers of deviations from the mean (M2, M3, M4) are kept, never raw powers, so that a large mean
does not eat the digits of a small spread. Extra memory is a few blocks of 2^18 float64 values, however
large the tensor.

Sources:
    Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    Pébay: Formulas for robust, one-pass parallel computation of covariances and arbitrary-order
    statistical moments, SAND2008-6212, 2008, eq. 2.1, 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from mediant.values import Array

BLOCK = 1 << 18
OUTLIER_SIGMAS = 6.0


@dataclass(frozen=True)
class Moments:
    """What one pass over finite values leaves behind.

    `m2`, `m3`, `m4` are Σ (x - mean)^k. The empty `Moments()` is the neutral element of `merge`.
    """

    count: int = 0
    minimum: float = math.inf
    maximum: float = -math.inf
    mean: float = 0.0
    m2: float = 0.0
    m3: float = 0.0
    m4: float = 0.0
    zeros: int = 0

    @property
    def std(self) -> float:
        """Standard deviation, divided by the count and not by one less; NaN without values."""
        return math.sqrt(self.m2 / self.count) if self.count else math.nan

    @property
    def skewness(self) -> float:
        """E[(x - mean)^3] / std^3; NaN for constant values."""
        return (self.m3 / self.m2) * math.sqrt(self.count / self.m2) if self.m2 > 0 else math.nan

    @property
    def kurtosis(self) -> float:
        """Excess kurtosis E[(x - mean)^4] / std^4 - 3: 0 for a Gaussian; NaN for constant values."""
        return (self.m4 / self.m2) * (self.count / self.m2) - 3 if self.m2 > 0 else math.nan

    @property
    def absmax(self) -> float:
        """Largest magnitude."""
        return max(abs(self.minimum), abs(self.maximum)) if self.count else math.nan

    @property
    def peak(self) -> float:
        """Largest magnitude in standard deviations, what extremes cost an absmax grid; NaN for constants."""
        return self.absmax / self.std if self.m2 > 0 else math.nan

    @property
    def zeros_share(self) -> float:
        """Share of exact zeros."""
        return self.zeros / self.count if self.count else math.nan


def moments(array: Array) -> Moments:
    """Moments of all values of an array of any shape, accumulated in float64.

    >>> m = moments(np.array([1.0, 2.0, 3.0, 4.0]))
    >>> m.mean, m.m2, m.skewness
    (2.5, 5.0, 0.0)
    """
    return reduce(merge, map(_block_moments, _blocks(array)), Moments())


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the values of `a` and `b` together (Pébay 2008, eq. 2.1 and 3.1 for p = 2, 3, 4)."""
    if not a.count or not b.count:
        return a if a.count else b
    n, p, q = a.count + b.count, a.count / (a.count + b.count), b.count / (a.count + b.count)
    delta = b.mean - a.mean
    spread = delta * delta * p * q * n
    return Moments(
        count=n,
        minimum=min(a.minimum, b.minimum),
        maximum=max(a.maximum, b.maximum),
        mean=a.mean + delta * q,
        m2=a.m2 + b.m2 + spread,
        m3=a.m3 + b.m3 + spread * delta * (p - q) + 3 * delta * (p * b.m2 - q * a.m2),
        m4=a.m4
        + b.m4
        + spread * delta * delta * (p * p - p * q + q * q)
        + 6 * delta * delta * (p * p * b.m2 + q * q * a.m2)
        + 4 * delta * (p * b.m3 - q * a.m3),
        zeros=a.zeros + b.zeros,
    )


def outliers(array: Array, of: Moments, sigmas: float = OUTLIER_SIGMAS) -> int:
    """Returns the number of values further than `sigmas` standard deviations from the mean; 0 for constant values.

    A second pass, since the deviation is known only after the first; counts of tensors add up, each by
    its own σ.
    """
    if not of.m2 > 0:
        return 0
    limit = sigmas * of.std
    return sum(int(np.count_nonzero(np.abs(block - of.mean) > limit)) for block in _blocks(array))


def _blocks(array: Array) -> Iterator[NDArray[np.float64]]:
    """Yields the values in memory order, which needs no copy of a transposed tensor."""
    flat = np.ravel(array, order="K")
    for start in range(0, flat.size, BLOCK):
        yield flat[start : start + BLOCK].astype(np.float64)


def _block_moments(x: NDArray[np.float64]) -> Moments:
    first = float(x[0])
    d = x - first  # makes the deviations of equal values exactly 0
    offset = float(d.mean())
    d -= offset
    d2 = d * d
    m2 = float(d2.sum())
    d *= d2
    d2 *= d2
    return Moments(
        count=x.size,
        minimum=float(x.min()),
        maximum=float(x.max()),
        mean=first + offset,
        m2=m2,
        m3=float(d.sum()),
        m4=float(d2.sum()),
        zeros=x.size - int(np.count_nonzero(x)),
    )
