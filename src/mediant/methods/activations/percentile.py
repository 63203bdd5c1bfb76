"""A percentile of the magnitudes: a fixed share of them is clipped.

It trades the error of the few that are clipped for a finer step of all others, by a share that is guessed; `kl` finds
one. Args of `thresholds`: magnitudes [groups, n] in the unit of the inputs; so is the result [groups].

Source: Wu et al. 2020, Integer Quantization for Deep Learning Inference (arXiv 2004.09602), section 3.3, where 99.9 %
to 99.9999 % are compared. Cost: O(n).

>>> Percentile(50.0).thresholds(np.float32([[4, 1, 2]]), 8)
array([2.], dtype=float32)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REFERENCES = (
    "Wu et al. 2020, Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation, "
    "arXiv:2004.09602",
)
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Percentile:
    """`percent` of the magnitudes are not clipped."""

    percent: float = 99.99

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise ValueError(f"a percentile is above 0 and at most 100, not {self.percent}")

    def thresholds(self, samples: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
        """Returns the percentiles, between neighbouring magnitudes by a straight line."""
        found: NDArray[np.float32] = np.percentile(samples, self.percent, axis=1).astype(np.float32)
        return found


METHOD = Percentile
