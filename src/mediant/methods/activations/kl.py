"""The threshold whose clipped, quantized histogram tells least apart from the original: TensorRT's calibration.

Minimises KL(P || Q) over thresholds, P the histogram of magnitudes with what is beyond put into its last bin, Q the
same after rounding. The work is that of `methods/scales/kl.py`, which does it for groups of weights; histograms of
inputs have the many entries that it is meant for.

Args of `thresholds`: magnitudes [groups, n] in the unit of the inputs; so is the result [groups].

Source: Migacz 2017, 8-bit Inference with TensorRT, "Entropy Calibration". Deviations: those of `methods/scales/kl.py`.

Cost: O(n), and bins x levels, for every group; many groups at once are much faster than one after another.

>>> x = np.concatenate([np.linspace(0, 1, 4001), [9]]).astype(np.float32)
>>> bool(Kl().thresholds(x[None], 8)[0] < 1.2)
True
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.methods.activations import largest_level
from mediant.methods.scales.kl import Kl as OfGroups

REFERENCES = ("Migacz 2017, 8-bit Inference with TensorRT, GPU Technology Conference S7310",)
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kl:
    """The largest number of `bins` of the histogram."""

    bins: int = 2048

    def thresholds(self, samples: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
        """Returns the thresholds; 0 where all magnitudes are 0."""
        most = largest_level(bits)
        levels = np.arange(-most, most + 1, dtype=np.float64)
        fit = OfGroups(self.bins).fit(np.ascontiguousarray(samples, np.float32), None, levels, zero_point=False)
        found: NDArray[np.float32] = fit.scale.reshape(-1) * np.float32(most)
        return found


METHOD = Kl
