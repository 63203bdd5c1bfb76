"""Whitened singular value decomposition: the matrix of a rank whose *outputs* are closest, on the calibration text.

Minimises tr[F (W - A B) H (W - A B)^T] over A [rows, rank] and B [rank, columns], H = E[x x^T] the Hessian of the
inputs and F = diag(f) weights of the rows. With H = S S^T (Cholesky) it is ||F^1/2 (W - A B) S||_F^2, so by Eckart and
Young the truncated decomposition of F^1/2 W S is optimal, and multiplying by the inverses gives A and B. Truncating
the i-th triplet costs exactly the square of its singular value.

Args of `factors`: matrix [rows, columns] float64; rows [rows] and metric [columns, columns] or its diagonal.

Source: Wang et al. 2024, SVD-LLM (arXiv 2403.07378), section 3.1: truncation-aware data whitening. Deviations: 1. Rows
are weighted by what an error in them costs the model (their Fisher information), as Hsu et al. 2022 (FWSVD, arXiv
2207.00112) have it; `weigh_rows=False` is the paper. 2. The metric is damped by a share of its mean diagonal, so that
inputs that never occur do not make S singular; the paper fails there. 3. The update of the parameters that follows in
the paper (section 3.2) is left to training.

Cost: columns^3 / 3 for S, and a decomposition as in `truncated_svd`.

>>> matrix, metric = np.array([[3.0, 0.0], [0.0, 1.0]]), np.diag([0.01, 1.0])
>>> np.abs(WhitenedSvd(damping=0).factors(matrix, 1, metric=metric).product()).round(6).tolist()
[[0.0, 0.0], [0.0, 1.0]]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from mediant.methods.low_rank import Factors, by_singular_values
from mediant.statistics.metric_factors import damped

REFERENCES = (
    "Wang et al. 2024, SVD-LLM: Truncation-aware Singular Value Decomposition for LLM Compression, arXiv:2403.07378",
    "Hsu et al. 2022, Language model compression with weighted low-rank factorization, arXiv:2207.00112",
)
NEEDS = ("hessian",)
# A row is worth at least this share of the mean: what calibration saw no use of is not thrown away for nothing.
LEAST_ROW = 1e-3


@dataclass(frozen=True)
class WhitenedSvd:
    """`damping` as a share of the mean diagonal; `weigh_rows` also by the sensitivity of outputs."""

    damping: float = 1e-4
    weigh_rows: bool = True
    nested: ClassVar[bool] = True

    def factors(
        self,
        matrix: NDArray[np.float64],
        rank: int,
        rows: NDArray[np.float64] | None = None,
        metric: NDArray[np.float64] | None = None,
    ) -> Factors:
        """Returns the first `rank` triplets of F^1/2 W S, taken back to the space of W."""
        f = root_weights(rows if self.weigh_rows else None, len(matrix))
        whitening = Whitening.of(metric, matrix.shape[1], self.damping)
        found = by_singular_values(whitening.apply(f[:, None] * matrix), rank)
        return Factors(found.left / f[:, None], whitening.undo(found.right))


METHOD = WhitenedSvd


@dataclass(frozen=True)
class Whitening:
    """S with metric = S S^T: lower triangular [columns, columns], or a diagonal [columns]."""

    factor: NDArray[np.float64]

    @classmethod
    def of(cls, metric: NDArray[np.float64] | None, columns: int, damping: float) -> Whitening:
        """Returns the factor of a metric that is damped first; of none it is the identity."""
        if metric is None:
            return cls(np.ones(columns))
        if metric.ndim == 1:
            return cls(np.sqrt(damped(np.diag(metric), damping).diagonal()))
        factor = torch.linalg.cholesky(torch.from_numpy(damped(metric, damping)))
        return cls(factor.numpy())

    def apply(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """W S."""
        return matrix * self.factor if self.factor.ndim == 1 else matrix @ self.factor

    def undo(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """X with X S = the matrix."""
        if self.factor.ndim == 1:
            return matrix / self.factor
        solved = torch.linalg.solve_triangular(
            torch.from_numpy(self.factor), torch.from_numpy(np.ascontiguousarray(matrix)), upper=False, left=False
        )
        return np.asarray(solved.numpy())


def root_weights(rows: NDArray[np.float64] | None, count: int) -> NDArray[np.float64]:
    """Roots of row weights, in units of their mean and never 0."""
    mean = 0.0 if rows is None else float(rows.mean())
    if rows is None or mean <= 0:
        return np.ones(count)
    return np.sqrt(np.maximum(rows / mean, LEAST_ROW))
