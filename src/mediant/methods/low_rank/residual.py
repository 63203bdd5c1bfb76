"""Low-rank residual of a quantized layer: what rounding lost, approximated by two thin matrices.

With Q = the decoded integers of W, minimises tr[F (W - Q - A B) H (W - Q - A B)^T] over A and B. The error of rounding
has hardly any structure of its own, but its outputs have: H is dominated by few directions, so in its metric a small
rank takes away far more of the error than of ||W - Q||^2. Whether that beats giving every code more bits, at equal
bytes, is measured in docs/log.md.

Args of `factors`: the error W - Q [rows, columns] float64; rows and metric as in `whitened_svd`.

Source: Zhang et al. 2024, LQER (arXiv 2402.02446), section 3.2, equation 10: S_E = diag of mean magnitudes of inputs;
Liu et al. 2024, EoRA (arXiv 2410.21271), for the full Hessian. Deviations: 1. The whole Hessian instead of LQER's
diagonal, which is optimal (`whitened_svd`). 2. `rounds` > 1 quantizes W - A B and fits anew, in turn, as Li et al. 2023
(LoftQ, arXiv 2310.08659) do; the best round is kept.

Cost: that of `whitened_svd`, and of quantizing, for each round.

>>> error = np.array([[0.5, 0.0], [0.0, 0.1]])
>>> np.abs(Residual().factors(error, 1).product()).round(6).tolist()
[[0.5, 0.0], [0.0, 0.0]]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mediant.methods.low_rank import Factors
from mediant.methods.low_rank.whitened_svd import WhitenedSvd

REFERENCES = (
    "Zhang et al. 2024, LQER: Low-Rank Quantization Error Reconstruction for LLMs, arXiv:2402.02446",
    "Liu et al. 2024, EoRA: Training-free Compensation for Compressed LLM, arXiv:2410.21271",
    "Li et al. 2023, LoftQ: LoRA-Fine-Tuning-Aware Quantization for Large Language Models, arXiv:2310.08659",
)
NEEDS = ("hessian",)


@dataclass(frozen=True)
class Residual:
    """`rounds` of quantizing and fitting; `damping` and `weigh_rows` as in `whitened_svd`."""

    rounds: int = 1
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
        """Returns the best factors for the error that rounding left."""
        return WhitenedSvd(self.damping, self.weigh_rows).factors(matrix, rank, rows, metric)


METHOD = Residual
