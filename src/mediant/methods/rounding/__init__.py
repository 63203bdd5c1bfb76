"""Rounding: which point of the grid is taken."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Rounding(Protocol):
    """What a file in this folder offers as `METHOD`: a frozen dataclass with this member."""

    def codes(
        self,
        groups: NDArray[np.float32],
        scale: NDArray[np.float32],
        zero: NDArray[np.float32],
        levels: NDArray[np.float64],
    ) -> NDArray[np.uint8]:
        """Codes of [groups, size] weights under given scale and zero [groups]; ties go to the lower level."""
