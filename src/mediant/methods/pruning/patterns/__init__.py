"""Patterns: where the zeros of a matrix may lie."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mediant.kernels.sparse_positions import Positions


class Pattern(Protocol):
    """What a file in this folder offers as `METHOD`: a frozen dataclass with these members."""

    @property
    def step(self) -> int:
        """Neighbouring columns that are chosen together."""

    def positions(self, rows: int, columns: int) -> Positions:
        """Returns the number of weights of a matrix that stay, and the storage of their places.

        Raises:
            ValueError: the pattern does not fit a matrix of that size.
        """

    def mask(self, scores: NDArray[np.float64], begin: int = 0, total: int | None = None) -> NDArray[np.bool_]:
        """Chooses the weights to keep by scores [rows, columns]: those worth most; of equal ones the first.

        The scores may be some neighbouring columns of a matrix with `total` columns, from `begin` on: then the shares
        of all stretches add up to what the whole matrix keeps.
        """
