"""All fractions p/q with |p/q| <= 1 and 1 <= q <= N: the grid of element-wise rational approximation.

Minimises nothing by itself. With the scale left at 1 and nearest rounding this is each weight's best approximation by
a fraction of bounded denominator. As a grid it is a poor one, kept so that anyone can measure how poor: the fractions
crowd around those of small denominator and leave their widest gaps, 1/N, beside 0, where weights are densest, and ±1.
At equal numbers of levels `uniform` has less squared error from N = 3 on. `farey` is the same set as integers over the
common denominator.

Levels are in units of the scale s, which is the largest magnitude that does not clip.

Source: Hardy and Wright, An Introduction to the Theory of Numbers, chapter III. There are about 6 N^2/π^2 levels: an
honest count of bits takes their number, never log2 p + log2 q.

Cost: O(N^2 log N).

>>> Rationals(3).levels(4).round(3).tolist()
[-1.0, -0.667, -0.5, -0.333, 0.0, 0.333, 0.5, 0.667, 1.0]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediant.methods.grids.farey import fitting_order, signed_fractions

REFERENCES = ("Hardy and Wright 2008, An Introduction to the Theory of Numbers, 6th edition, chapter III",)
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rationals:
    """Fractions of denominator at most `max_denominator`; None takes the largest whose levels fit."""

    max_denominator: int | None = None

    def __post_init__(self) -> None:
        if self.max_denominator is not None and self.max_denominator < 1:
            raise ValueError(f"a denominator is at least 1, not {self.max_denominator}")

    @property
    def zero_point(self) -> bool:
        """No group stores a zero."""
        return False

    def levels(
        self, bits: int, sample: NDArray[Any] | None = None, weights: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """Returns the fractions, each rounded once to float64; `sample` and `weights` are not looked at.

        Raises:
            ValueError: bits out of 2..8, or too few for the denominator.
        """
        return signed_fractions(fitting_order(bits, self.max_denominator))


METHOD = Rationals
