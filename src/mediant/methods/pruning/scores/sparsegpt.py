"""Chooses weights by what their loss costs after the others have made up for it, and makes the others do so.

Minimises tr (W − Ŵ) H (W − Ŵ)ᵀ, H = E[x xᵀ], over masks and the weights kept. Columns are gone through from first to
last; the error of a pruned one is spread over the later columns by the inverse Hessian of these (optimal brain surgeon
in a fixed order, so that all rows share one factor U, H⁻¹ = Uᵀ U). The score of a weight is w² / U_jj², and the mask of
a stretch of columns is chosen when it is reached, from weights as they are by then.

Deviation 1: the recursion cannot mend earlier columns, so it ends above the least squares of its own mask; `refits`
steps of conjugate gradients, for all rows at once, go on to that optimum: min over Ŵ with this mask. Each step lowers
the error, and as many as there are columns would reach it exactly. Cost: columns² x rows for the recursion, the same
for each step; memory, a few copies of H and W in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mediant.methods.layer import Layer
from mediant.methods.pruning.patterns import Pattern
from mediant.methods.pruning.scores import Doubles, Mask
from mediant.statistics.metric_factors import damped

REFERENCES = (
    "Frantar & Alistarh 2023, SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot, 2301.00774",
    "Hestenes & Stiefel 1952, Methods of Conjugate Gradients for Solving Linear Systems",
)
NEEDS = ("hessian",)


@dataclass(frozen=True)
class SparseGPT:
    """`block` columns get their mask at a time; `damping` of the Hessian, in mean diagonals; `refits` as above."""

    block: int = 128
    damping: float = 0.01
    refits: int = 25

    def prune(self, layer: Layer, pattern: Pattern) -> tuple[Mask, Doubles]:
        """Returns the mask, and the weights that make up for what it removes."""
        metric = torch.from_numpy(damped(np.asarray(layer.terms[-1].full()), self.damping))
        matrix = torch.from_numpy(layer.matrix.astype(np.float64))
        block = max(pattern.step, self.block - self.block % pattern.step)
        mask, weights = recursion(matrix, upper_factor(metric), pattern, block)
        weights = refitted(weights, matrix, mask, metric, self.refits)
        return mask.numpy(), weights.numpy()


def upper_factor(metric: torch.Tensor) -> torch.Tensor:
    """U with M⁻¹ = Uᵀ U, upper triangular."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(metric))
    factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def recursion(
    matrix: torch.Tensor, factor: torch.Tensor, pattern: Pattern, block: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask and weights [rows, columns] of Algorithm 1."""
    weights, columns = matrix.clone(), matrix.shape[1]
    mask = torch.zeros(matrix.shape, dtype=torch.bool)
    for begin in range(0, columns, block):
        here = slice(begin, min(columns, begin + block))
        scores = (weights[:, here] / factor.diagonal()[here]).square()
        mask[:, here] = torch.from_numpy(pattern.mask(scores.numpy(), begin, columns))
        errors = torch.zeros_like(scores)
        for j in range(here.start, here.stop):
            at = j - begin
            errors[:, at] = torch.where(mask[:, j], 0.0, weights[:, j]) / factor[j, j]
            weights[:, j : here.stop] -= errors[:, at, None] * factor[j, j : here.stop]
        weights[:, here.stop :] -= errors @ factor[here, here.stop :]
    return mask, torch.where(mask, weights, 0.0)


def refitted(
    start: torch.Tensor, matrix: torch.Tensor, mask: torch.Tensor, metric: torch.Tensor, steps: int
) -> torch.Tensor:
    """Towards the least tr (W − Ŵ) M (W − Ŵ)ᵀ over Ŵ with this mask: conjugate gradients, each row with its own step.

    Preconditioned by the diagonal of M, whose entries may differ by orders of magnitude.
    """
    weights, scale = start.clone(), metric.diagonal().reciprocal()
    residual = torch.where(mask, (matrix - weights) @ metric, 0.0)
    preconditioned = residual * scale
    direction, size = preconditioned.clone(), (residual * preconditioned).sum(1)
    for _ in range(min(steps, matrix.shape[1])):
        through = torch.where(mask, direction @ metric, 0.0)
        curvature = (direction * through).sum(1)
        step = torch.where(curvature > 0, size / curvature, 0.0)
        weights += step[:, None] * direction
        residual -= step[:, None] * through
        preconditioned = residual * scale
        before, size = size, (residual * preconditioned).sum(1)
        direction = preconditioned + torch.where(before > 0, size / before, 0.0)[:, None] * direction
    return weights


METHOD = SparseGPT
