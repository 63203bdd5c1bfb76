"""Low rank: a matrix as the product of two thin ones."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


class Factors(NamedTuple):
    """W ~ left @ right, float64 [rows, rank] and [rank, columns], the most important component first."""

    left: Doubles
    right: Doubles

    def product(self) -> Doubles:
        """Returns the product of the factors, [rows, columns]."""
        return self.left @ self.right

    def first(self, rank: int) -> Factors:
        """Returns the first components."""
        return Factors(self.left[:, :rank], self.right[:rank])


class LowRank(Protocol):
    """What a file in this folder offers as `METHOD`: a frozen dataclass with these members.

    `nested` says whether the factors of a smaller rank are the first components of those of a larger one.
    """

    nested: bool

    def factors(
        self, matrix: Doubles, rank: int, rows: Doubles | None = None, metric: Doubles | None = None
    ) -> Factors:
        """Factors of a matrix [rows, columns].

        Args:
            matrix: finite.
            rank: from 1 to the smaller of both sizes.
            rows: weights >= 0 of the rows' errors; None means all equal.
            metric: what errors cost, E metric E^T for a row E of them: [columns, columns], positive semidefinite, or
                its diagonal [columns]; None means the sum of squares.
        """


def by_singular_values(matrix: Doubles, rank: int) -> Factors:
    """Returns the first singular triplets; the values' roots go to both sides, so that both have alike magnitudes."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(s[:rank])
    return Factors(u[:, :rank] * root, root[:, None] * v[:rank])
