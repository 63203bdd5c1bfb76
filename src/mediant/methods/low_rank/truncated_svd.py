"""Truncated singular value decomposition: the closest matrix of a rank, all weights counting alike.

Minimises ||W - A B||_F^2 over A [rows, rank] and B [rank, columns]; what remains is the sum of the squares of the
singular values left out (Eckart and Young). It knows nothing of inputs: a direction of W that no input ever takes costs
as much as one that all take. `whitened_svd` mends that and is better wherever there is a calibration text; this is for
matrices without one, and the plain baseline.

Args of `factors`: matrix [rows, columns] float64; `rows` and `metric` are not looked at.

Source: Eckart and Young 1936 (Psychometrika 1), the theorem; the roots of singular values go to both sides.

Cost: rows * columns * min(rows, columns) times about ten; memory of four copies in float64.

>>> found = TruncatedSvd().factors(np.array([[3.0, 0.0], [0.0, 1.0]]), 1)
>>> np.abs(found.product()).round(6).tolist()
[[3.0, 0.0], [0.0, 0.0]]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mediant.methods.low_rank import Factors, by_singular_values

REFERENCES = ("Eckart and Young 1936, The approximation of one matrix by another of lower rank, Psychometrika 1",)
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class TruncatedSvd:
    """It has no parameters."""

    nested: ClassVar[bool] = True

    def factors(
        self,
        matrix: NDArray[np.float64],
        rank: int,
        rows: NDArray[np.float64] | None = None,
        metric: NDArray[np.float64] | None = None,
    ) -> Factors:
        """Returns the first `rank` singular triplets."""
        return by_singular_values(matrix, rank)


METHOD = TruncatedSvd
