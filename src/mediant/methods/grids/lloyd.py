"""The table of least squared error for a sample: Lloyd and Max's quantizer.

Minimises Σ h_i (x_i - l(x_i))^2 over tables of 2^b levels, where l(x) is the level nearest x, by turns: every level
moves to the weighted mean of the values nearest it, until none changes hands. The result is a fixed point, which is
the optimum for log-concave densities (Fleischer 1964) and near it for weights. Against `uniform`, both with exact
scales on groups of 64 Gaussian weights, the squared error is 6 % less at 3 bits and 15 % at 4; more on heavier tails.
A decoder needs a table lookup. Not for sparse weights: no level needs to be 0.

`sample` holds weights divided by the largest magnitude of their group, `weights` the h; levels come in those units, so
from -1 to 1. The scales are then fitted to the table, which changes what the table would be: one round brings most.

Source: Max 1960; Lloyd 1982, method I. Deviations: (1) starts from levels whose density is
the cube root of the values' (Panter and Dite 1951), without chance; from plain quantiles the method gets stuck at 6
bits and more, at 8 with several times the error; (2) a level that is nearest to nothing stays where it is; (3) gives up
after `rounds`, though a hundred or two are the rule.

Cost: O(n log n) to sort n values, then O(2^b log n) a round.

>>> Lloyd().levels(1, np.array([-1.0, -0.8, 0.1, 0.3])).round(3).tolist()
[-0.9, 0.2]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

REFERENCES = (
    "Panter and Dite 1951, Quantization Distortion in Pulse-Count Modulation, Proceedings of the IRE 39 (1)",
    "Max 1960, Quantizing for Minimum Distortion, IRE Transactions on Information Theory 6 (1)",
    "Lloyd 1982, Least Squares Quantization in PCM, IEEE Transactions on Information Theory 28 (2)",
)
NEEDS: tuple[str, ...] = ()

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Lloyd:
    """A table fitted to a sample, in at most `rounds` rounds."""

    rounds: int = 10_000

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise ValueError(f"the number of rounds is at least 0, not {self.rounds}")

    @property
    def zero_point(self) -> bool:
        """No group stores a zero."""
        return False

    def levels(
        self, bits: int, sample: NDArray[Any] | None = None, weights: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """At most 2^bits levels: fewer if the sample has fewer distinct values.

        Raises:
            ValueError: bits out of 1..8, no sample, or one without any value that counts.
        """
        if not 1 <= bits <= 8:
            raise ValueError(f"a Lloyd table has 1 to 8 bits, not {bits}")
        if sample is None:
            raise ValueError("a Lloyd table is fitted to a sample, and none is given")
        values, h = distinct(sample, weights)
        if not len(values):
            raise ValueError("a Lloyd table is fitted to values with h > 0, and the sample has none")
        return fit(values, h, 2**bits, self.rounds)


METHOD = Lloyd


def distinct(sample: NDArray[Any], weights: NDArray[Any] | None) -> tuple[Doubles, Doubles]:
    """Returns the ascending distinct values of a sample with h > 0, and the sum of h of each."""
    h = np.ones(sample.size) if weights is None else np.asarray(weights, np.float64).ravel()
    counts = h > 0
    values, index = np.unique(np.asarray(sample, np.float64).ravel()[counts], return_inverse=True)
    sums: Doubles = np.bincount(index, h[counts], minlength=len(values)).astype(np.float64)
    return values, sums


def fit(values: Doubles, h: Doubles, count: int, rounds: int) -> Doubles:
    """Lloyd's method I on ascending distinct values."""
    if len(values) <= count:
        return values
    levels = values[spread(values, h, count)]
    weight, moment = (np.concatenate(([0.0], np.cumsum(x))) for x in (h, h * values))
    cuts = np.full(count - 1, -1)
    for _ in range(rounds):
        previous, cuts = cuts, np.searchsorted(values, (levels[:-1] + levels[1:]) / 2, side="right")
        if np.array_equal(cuts, previous):
            break
        edges = np.concatenate(([0], cuts, [len(values)]))
        inside = np.diff(weight[edges])
        levels = np.divide(np.diff(moment[edges]), inside, out=levels.copy(), where=inside > 0)
    return levels


def spread(values: Doubles, h: Doubles, count: int) -> NDArray[np.intp]:
    """Ascending indices of values at equal shares of ∫ f^(1/3) dx, f the density of the sample."""
    # f dx is h, so that f^(1/3) dx = h^(1/3) dx^(2/3). Gaps are noisy, but their running sum is not.
    gaps = np.diff(values, prepend=values[0])
    shares = np.cumsum(np.cbrt(h * gaps**2))
    index = np.searchsorted(shares, (np.arange(count) + 0.5) / count * shares[-1])
    # Where shares jump over several quantiles, the next values stand in.
    index = np.maximum.accumulate(index - np.arange(count)) + np.arange(count)
    places: NDArray[np.intp] = np.minimum(index, len(values) - count + np.arange(count))
    return places
