"""Of every m neighbouring weights of a row, n stay: the n of the highest score.

2 of 4 is what sparse tensor cores take. It loses more than `unstructured` at the same share, since zeros cannot gather
where they cost least, but its positions are cheaper: 0.75 bits a weight for 2 of 4, 0.875 for 4 of 8.

>>> NOfM(2, 4).mask(np.array([[3.0, 1.0, 2.0, 4.0, 9.0, 9.0, 0.0, 1.0]])).astype(int).tolist()
[[1, 0, 0, 1, 1, 1, 0, 0]]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.kernels.sparse_positions import Positions, has_ranks
from mediant.methods.pruning.patterns._largest import largest

REFERENCES = ("Mishra et al. 2021, Accelerating Sparse Deep Neural Networks, 2104.08378",)
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class NOfM:
    """`n` of `m`."""

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        if type(self.n) is not int or type(self.m) is not int or not 0 < self.n < self.m:
            raise ValueError(f"{self.n} of {self.m} is no pattern; both are whole numbers, n from 1 to below m")

    @property
    def step(self) -> int:
        """Columns that are chosen together."""
        return self.m

    def positions(self, rows: int, columns: int) -> Positions:
        """Returns the rank of each group's combination where it fits a byte, else as for any zeros."""
        if columns % self.m:
            raise ValueError(f"{columns} columns are no multiple of {self.m}")
        row = columns * self.n // self.m
        if not has_ranks(self.n, self.m):
            return Positions.smallest(rows, columns, rows * row, row)
        return Positions("combinations", rows, columns, rows * row, row, keep=self.n, of=self.m)

    def mask(self, scores: NDArray[np.float64], begin: int = 0, total: int | None = None) -> NDArray[np.bool_]:
        """Returns the highest scores of each group; `begin` and the number of columns are multiples of m."""
        return largest(scores.reshape(-1, self.m), self.n).reshape(scores.shape)


METHOD = NOfM
