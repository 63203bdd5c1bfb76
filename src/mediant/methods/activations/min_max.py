"""The largest magnitude that occurred: nothing of the calibration text is clipped.

One outlier decides the step of all. Where inputs have outliers, as after an attention sink, use `kl`, or a step for
every channel (runtime/activations.py). Args of `thresholds`: magnitudes [groups, n] in the unit of the inputs; so is
the result [groups].

Source: Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference
(arXiv 1712.05877), section 3. Cost: O(n).

>>> MinMax().thresholds(np.float32([[0.5, 3, 1]]), 8)
array([3.], dtype=float32)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REFERENCES = (
    "Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, "
    "arXiv:1712.05877",
)
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class MinMax:
    """It has no parameters."""

    def thresholds(self, samples: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
        """Returns the largest magnitudes."""
        found: NDArray[np.float32] = samples.max(axis=1)
        return found


METHOD = MinMax
