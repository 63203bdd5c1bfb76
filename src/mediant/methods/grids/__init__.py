"""Grids: where values may lie.

A grid is a sorted table of at most 2^bits *levels* in units of a scale s: the decoded weight is s * level[code].
A grid with `zero_point` has the levels 0 .. 2^bits - 1 and a stored integer z per group: s * (level[code] - z).
A grid may also have points of the plane at some bit widths, for two weights at a time (kernels/pairs.py); it then has
`paired`, those bit widths.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Grid(Protocol):
    """What a file in this folder offers as `METHOD`: a frozen dataclass with these members."""

    @property
    def zero_point(self) -> bool:
        """True if every group stores an integer zero beside its scale."""

    def levels(
        self, bits: int, sample: NDArray[Any] | None = None, weights: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """Ascending levels, at most 2^bits, finite and distinct; or points [2, 4^bits].

        `sample` holds values already divided by their group's largest magnitude, `weights` their sensitivities;
        only grids fitted to data (Lloyd) look at them.

        Raises:
            ValueError: `bits` is not one this grid has.
        """
