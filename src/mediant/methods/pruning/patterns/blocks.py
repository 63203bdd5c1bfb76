"""Whole blocks of rows x columns are zero or not: those whose scores add up to most stay, equally many in each row.

What a kernel can skip; it loses most at the same share. Positions take a bit for each block.

>>> Blocks(0.5, 1, 2).mask(np.array([[3.0, 1.0, 2.0, 4.0]])).astype(int).tolist()
[[0, 0, 1, 1]]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.kernels.sparse_positions import Positions
from mediant.methods.pruning.patterns._largest import largest

REFERENCES = ("Gray et al. 2017, GPU Kernels for Block-Sparse Weights (OpenAI)",)
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Blocks:
    """`sparsity` is the share of zero blocks of `height` x `width` in each row of blocks."""

    sparsity: float = 0.5
    height: int = 8
    width: int = 32

    def __post_init__(self) -> None:
        whole = type(self.height) is int and type(self.width) is int
        if not whole or not 0 <= self.sparsity < 1 or self.height < 1 or self.width < 1:
            raise ValueError("the sparsity is from 0 to below 1, height and width whole numbers from 1")

    @property
    def step(self) -> int:
        """Columns that are chosen together."""
        return self.width

    def positions(self, rows: int, columns: int) -> Positions:
        """At least one block in each row of blocks."""
        if rows % self.height or columns % self.width:
            raise ValueError(f"{rows} x {columns} do not divide into blocks of {self.height} x {self.width}")
        row = self._kept(columns // self.width, columns // self.width) * self.width
        return Positions("blocks", rows, columns, rows * row, row, height=self.height, width=self.width)

    def mask(self, scores: NDArray[np.float64], begin: int = 0, total: int | None = None) -> NDArray[np.bool_]:
        """Returns the blocks of the highest sums; `begin` and the number of columns are multiples of the width."""
        rows, columns = scores.shape
        whole, first, count = (n // self.width for n in (total or columns, begin, columns))
        sums = scores.reshape(rows // self.height, self.height, count, self.width).sum(axis=(1, 3))
        kept = largest(sums, self._kept(first + count, whole) - self._kept(first, whole))
        return kept.repeat(self.height, axis=0).repeat(self.width, axis=1)

    def _kept(self, blocks: int, total: int) -> int:
        return max(1, round((1 - self.sparsity) * total)) * blocks // total


METHOD = Blocks
