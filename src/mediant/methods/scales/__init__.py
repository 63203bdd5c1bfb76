"""Scales: how a grid is stretched over a group of weights."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Fit(NamedTuple):
    """Scale (float32, [groups]) and integer zero (float32, [groups]; all 0 where the grid has no zero point).

    A scale may be negative, which mirrors a lopsided grid, and is 0 for a group of zeros; it is always finite.
    """

    scale: NDArray[np.float32]
    zero: NDArray[np.float32]


class Scale(Protocol):
    """What a file in this folder offers as `METHOD`: a frozen dataclass with this member."""

    def fit(
        self,
        groups: NDArray[np.float32],
        weights: NDArray[np.float32] | None,
        levels: NDArray[np.float64],
        zero_point: bool,
    ) -> Fit:
        """Fits one scale to each row of `groups`.

        Args:
            groups: [groups, size], finite.
            weights: sensitivities h >= 0, same shape; None means all equal. Entries with h = 0 do not count.
            levels: ascending levels of the grid.
            zero_point: whether each group may also have an integer zero.

        Raises:
            ValueError: this method cannot serve such a grid.
        """
