"""Babai rounding that keeps several candidates: fewer errors than `babai`, for as many times its cost.

Minimises what `babai` minimises, (w^ - w) M (w^ - w)^T for every row, but with the `beams` cheapest beginnings of a row
at hand instead of one (mediant.kernels.k_best), and then the same coordinate descent. What the beams find, descent
finds in part too: figures are in docs/log.md. Use it where a few per cent of error are worth the time, from 2 bits on
downwards most.

Source: Guo & Nilsson 2006, section III, for the decoder; Chen et al. 2025 (arXiv 2507.18553) for the lattice.
Deviations: (1) each beam finds group scales of its own, as `babai` does; (2) `sweeps` rounds of descent follow.

Cost: beams * columns^2 / 2 multiply-adds a row, and columns^2 for the first sweep.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.kernels.babai import MetricFactors, Rounded
from mediant.kernels.k_best import MOST_BEAMS, k_best
from mediant.kernels.scale_codes import ScaleForm
from mediant.methods.rounding.babai import Babai

REFERENCES = (
    "Guo & Nilsson 2006, Algorithm and implementation of the K-best sphere decoding for MIMO detection, "
    "IEEE Journal on Selected Areas in Communications 24(3)",
    "Chen et al. 2025, The Geometry of LLM Quantization: GPTQ as Babai's Nearest Plane Algorithm, arXiv:2507.18553",
)
NEEDS = ("hessian",)


@dataclass(frozen=True)
class KBest(Babai):
    """`beams` candidates for each row, 1 to 256; the rest as for `babai`."""

    beams: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.beams <= MOST_BEAMS:
            raise ValueError(f"beams are counted from 1 to {MOST_BEAMS}")

    def nearest_planes(
        self,
        matrix: NDArray[np.float32],
        factored: MetricFactors,
        levels: NDArray[np.float32],
        group: int,
        form: ScaleForm,
    ) -> Rounded:
        """Returns codes and scales of a matrix [rows, columns] in the factors' order, before descent."""
        return k_best(matrix, factored, levels, group, form, self.beams)


METHOD = KBest
