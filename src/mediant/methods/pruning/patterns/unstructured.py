"""Zeros anywhere: each row, or the whole matrix, keeps the same share of its weights, those of the highest score.

`row` compares weights with those of the same output only, which Wanda found better for its score (section 3 there), and
lets values be quantized, since all rows are equally long; `matrix` compares all. Sisters: `n_of_m`, which hardware can
use, `blocks`, which kernels can skip. Positions take a bit a weight, or less below a quarter of them
(kernels/sparse_positions.py).

>>> Unstructured(0.5).mask(np.array([[3.0, 1.0, 2.0, 4.0]])).astype(int).tolist()
[[1, 0, 0, 1]]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.kernels.sparse_positions import Positions
from mediant.methods.pruning.patterns._largest import largest

REFERENCES = ("Han et al. 2015, Learning both Weights and Connections for Efficient Neural Networks, 1506.02626",)
NEEDS: tuple[str, ...] = ()

SCOPES = ("row", "matrix")


@dataclass(frozen=True)
class Unstructured:
    """`sparsity` is the share of zeros, below 1; `scope` what weights are compared within."""

    sparsity: float = 0.5
    scope: str = "row"

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1 or self.scope not in SCOPES:
            raise ValueError(f"the sparsity is from 0 to below 1, the scope one of {', '.join(SCOPES)}")

    @property
    def step(self) -> int:
        """Columns that are chosen together."""
        return 1

    def positions(self, rows: int, columns: int) -> Positions:
        """At least one weight in each row, or in the matrix."""
        if self.scope == "matrix":
            return Positions.smallest(rows, columns, max(1, round((1 - self.sparsity) * rows * columns)))
        row = self._kept(columns, columns)
        return Positions.smallest(rows, columns, rows * row, row)

    def mask(self, scores: NDArray[np.float64], begin: int = 0, total: int | None = None) -> NDArray[np.bool_]:
        """Returns the highest scores of each row, or of all."""
        rows, columns = scores.shape
        whole = total or columns
        if self.scope == "row":
            return largest(scores, self._kept(begin + columns, whole) - self._kept(begin, whole))
        stored = self.positions(rows, whole).stored
        count = stored * (begin + columns) // whole - stored * begin // whole
        return largest(scores.reshape(1, -1), count).reshape(scores.shape)

    def _kept(self, columns: int, total: int) -> int:
        """Of the first columns, in each row."""
        return max(1, round((1 - self.sparsity) * total)) * columns // total


METHOD = Unstructured
