"""Non-negative factors by multiplicative updates.

Minimises ||V - A B||_F^2 over A, B >= 0 for a non-negative V, by

    B <- B * (A^T V) / (A^T A B),    A <- A * (V B^T) / (A B B^T),

under which the error never rises (Lee and Seung, theorem 1). Parts add up and never cancel, which makes them readable
but a worse approximation than `truncated_svd` of the same rank: for study, and for matrices that are non-negative.

Args of `factors`: matrix [rows, columns] float64 of any sign; rows [rows]; of a metric only the diagonal [columns].

Source: Lee and Seung 2000, Algorithms for Non-negative Matrix Factorization (NIPS 13), equation 4; the start of
Boutsidis and Gallopoulos 2008 (NNDSVD, Pattern Recognition 41) with zeros filled, so that no randomness is needed.
Deviations: 1. A matrix with both signs is W = P - N with P, N >= 0, each factored, the rank shared by their energy; the
signs of N go into its right factor. 2. Weights of rows and columns scale V, and the factors are scaled back, so they
stay non-negative.

Cost: `updates` times 4 * rows * columns * rank multiply-adds.

>>> found = Nmf(updates=200).factors(np.array([[1.0, 2.0], [2.0, 4.0]]), 1)
>>> found.product().round(3).tolist()
[[1.0, 2.0], [2.0, 4.0]]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mediant.methods.low_rank import Factors, by_singular_values
from mediant.methods.low_rank.whitened_svd import root_weights

REFERENCES = (
    "Lee and Seung 2000, Algorithms for Non-negative Matrix Factorization, NIPS 13",
    "Boutsidis and Gallopoulos 2008, SVD based initialization: A head start for nonnegative matrix factorization, "
    "Pattern Recognition 41",
)
NEEDS = ("diagonal",)
# Keeps quotients finite where a whole factor is 0.
TINY = 1e-12
# A column counts at least this share of the mean.
LEAST_COLUMN = 1e-6

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Nmf:
    """`updates` of both factors."""

    updates: int = 100
    nested: ClassVar[bool] = False

    def factors(
        self, matrix: Doubles, rank: int, rows: Doubles | None = None, metric: Doubles | None = None
    ) -> Factors:
        """Non-negative factors of the positive part and of the negative part, one behind the other."""
        f = root_weights(rows, len(matrix))
        h = _column_roots(metric, matrix.shape[1])
        weighted = f[:, None] * matrix * h
        positive, negative = np.maximum(weighted, 0), np.maximum(-weighted, 0)
        first, second = (non_negative(part, r, self.updates) for part, r in _shared(positive, negative, rank))
        left = np.concatenate([first.left, second.left], axis=1) / f[:, None]
        return Factors(left, np.concatenate([first.right, -second.right]) / h)


METHOD = Nmf


def non_negative(matrix: Doubles, rank: int, updates: int) -> Factors:
    """Non-negative factors of a non-negative matrix [rows, columns]."""
    found = started(matrix, rank)
    for _ in range(updates):
        found = updated(matrix, found)
    return found


def updated(matrix: Doubles, found: Factors) -> Factors:
    """Returns one update of the right factor, then of the left."""
    a, b = found
    b = b * (a.T @ matrix) / (a.T @ a @ b + TINY)
    return Factors(a * (matrix @ b.T) / (a @ (b @ b.T) + TINY), b)


def started(matrix: Doubles, rank: int) -> Factors:
    """Returns the larger of the positive and negative halves of each singular triplet; zeros become a hundredth of the
    mean.
    """
    svd = by_singular_values(matrix, rank)
    left, right = np.zeros_like(svd.left), np.zeros_like(svd.right)
    for k in range(rank):
        u, v = svd.left[:, k], svd.right[k]
        halves = [(np.maximum(sign * u, 0), np.maximum(sign * v, 0)) for sign in (1, -1)]
        left[:, k], right[k] = max(halves, key=lambda half: float(np.linalg.norm(half[0]) * np.linalg.norm(half[1])))
    return Factors(_filled(left), _filled(right))


def _filled(factor: Doubles) -> Doubles:
    # An exact 0 would stay 0 for ever under a multiplicative update.
    return np.where(factor == 0, max(float(factor.mean()) / 100, TINY), factor) if factor.size else factor


def _shared(positive: Doubles, negative: Doubles, rank: int) -> list[tuple[Doubles, int]]:
    """Both parts and their ranks."""
    energy = [float(np.square(part).sum()) for part in (positive, negative)]
    share = energy[0] / sum(energy) if sum(energy) > 0 else 1.0
    first = round(rank * share)
    if energy[0] > 0 and energy[1] > 0 and rank > 1:
        first = min(rank - 1, max(1, first))
    return [(positive, first), (negative, rank - first)]


def _column_roots(metric: Doubles | None, columns: int) -> Doubles:
    h = np.ones(columns) if metric is None else np.asarray(metric if metric.ndim == 1 else np.diag(metric))
    mean = float(h.mean())
    return np.sqrt(np.maximum(h / mean, LEAST_COLUMN)) if mean > 0 else np.ones(columns)
