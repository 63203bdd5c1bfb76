"""Factors of a layer's metric, for rounding on its lattice: damping, dead inputs, triangular factors.

M = H + damping * mean(diag H) * I, where an input that never moves (H_jj = 0) gets the mean itself, so that its weights
are simply rounded. Factored in float64; handed on in float32.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mediant.kernels.babai import MetricFactors

# Side of a triangular matrix that is inverted at once.
SOLVED = 128


def damped(hessian: NDArray[np.float64], damping: float) -> NDArray[np.float64]:
    """Returns a positive definite metric [n, n] from a Hessian that may be singular."""
    diagonal = np.diag(hessian)
    mean = float(diagonal.mean())
    shift = np.where(diagonal == 0, mean, damping * mean) if mean > 0 else np.ones_like(diagonal)
    metric: NDArray[np.float64] = hessian + np.diag(shift)
    return metric


def factorize(metric: NDArray[np.float64], order: NDArray[np.int64] | None = None) -> MetricFactors:
    """Factors of a positive definite metric [n, n]: U with M^-1 = U^T U, as babai takes them.

    With an `order`, of the metric of the columns taken in that order.

    Raises:
        ValueError: the metric is not positive definite.
    """
    metric = metric if order is None else metric[np.ix_(order, order)]
    m = torch.from_numpy(np.ascontiguousarray(metric))
    try:
        # M = R R^T, R upper triangular, is the usual factor of the metric turned about; and U = R^-1.
        turned = torch.linalg.cholesky(m.flip(0, 1)).flip(0, 1)
    except RuntimeError as problem:
        raise ValueError(f"the metric is not positive definite: {problem}") from None
    upper = inverse_of_upper(turned)
    diagonal = upper.diagonal()
    return MetricFactors(
        feedback=(upper / diagonal[:, None]).float().contiguous().numpy(),
        conditional=diagonal.square().reciprocal().float().numpy(),
        metric=m.float().contiguous().numpy(),
        order=order,
    )


def inverse_of_upper(matrix: torch.Tensor) -> torch.Tensor:
    """Returns the inverse of an upper triangular matrix [n, n], found by halves.

    [A B; 0 C]^-1 = [A^-1  -A^-1 B C^-1; 0  C^-1] takes n^3 / 3 multiply-adds, nearly all of them in products of
    matrices; a solution for the unit matrix takes n^3 / 2 at half the speed.
    """
    inverse: torch.Tensor = torch.zeros_like(matrix)
    if len(matrix) <= SOLVED:
        torch.linalg.solve_triangular(matrix, torch.eye(len(matrix), dtype=matrix.dtype), upper=True, out=inverse)
        return inverse
    half = len(matrix) // 2
    inverse[:half, :half] = inverse_of_upper(matrix[:half, :half])
    inverse[half:, half:] = inverse_of_upper(matrix[half:, half:])
    inverse[:half, half:] = -inverse[:half, :half] @ (matrix[:half, half:] @ inverse[half:, half:])
    return inverse
