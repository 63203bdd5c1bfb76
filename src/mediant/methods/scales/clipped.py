"""Absmax shrunk by a search: the best of a few shares of the range that clips nothing.

Minimises Σ h (w - s (l(p) - z))^2 over s = share · s_absmax for the shares 1, 1 - step, ..., and z fitted to the
shrunk range. `exact` finds the global optimum, but has no zero point; `absmax` clips nothing.

Args of `fit`: float32 groups and sensitivities [groups, size], in the unit of the weights; so is s.

Source: Lin et al. 2023 (arXiv 2306.00978), section 3.2, "weight clipping", and the authors' code for the shares: from 1
down to 1/2 in steps of 1/20. Deviation: (1) the error is weighted by the diagonal of the Hessian, not by the products
with sampled inputs.

Cost: as many roundings to nearest as there are shares.

>>> w = np.float32([[-1, -0.9, 1, 0.9, 0.1, 10]])
>>> h = np.float32([[100, 100, 100, 100, 100, 0.01]])
>>> float(Clipped().fit(w, h, np.arange(-4.0, 4), False).scale[0]) < 10 / 3
True
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.kernels.nearest_code import nearest_code
from mediant.methods.scales import Fit
from mediant.methods.scales.absmax import Absmax, affine, extremes, to_float32

REFERENCES = (
    "Lin et al. 2023, AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and Acceleration, "
    "arXiv:2306.00978",
)
NEEDS: tuple[str, ...] = ()

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Clipped:
    """Shares from 1 down to above 1 - `most`, in steps of 1/`grid`."""

    grid: int = 20
    most: float = 0.5

    def __post_init__(self) -> None:
        if self.grid < 1 or not 0 <= self.most < 1:
            raise ValueError(f"a grid of at least 1 and a share below 1 are needed, not {self.grid} and {self.most}")

    def fit(self, groups: Floats, weights: Floats | None, levels: Doubles, zero_point: bool) -> Fit:
        """Scale, and zero, of each group; both 0 for a group of zeros.

        Raises:
            ValueError: the grid has no level but 0.
        """
        whole = Absmax().fit(groups, weights, levels, zero_point)
        lo, hi = extremes(groups, weights)
        best, least = whole, _error(groups, weights, whole, levels)
        for step in range(1, max(1, int(self.most * self.grid))):
            share = 1 - step / self.grid
            if zero_point:
                fit = affine(share * lo, share * hi, levels)
            else:
                fit = Fit(to_float32(share * whole.scale), whole.zero)
            error = _error(groups, weights, fit, levels)
            better = error < least
            best = Fit(*(np.where(better, new, old) for new, old in zip(fit, best, strict=True)))
            least = np.minimum(error, least)
        return best


METHOD = Clipped


def _error(groups: Floats, weights: Floats | None, fit: Fit, levels: Doubles) -> Doubles:
    """Σ h (w - w^)^2 of each group with nearest codes, float64 [groups]."""
    points = levels.astype(np.float32)[nearest_code(groups, *fit, levels)] - fit.zero[:, None]
    # An error that overflows is infinite, and never the least.
    with np.errstate(over="ignore"):
        square = np.square(groups - fit.scale[:, None] * points)
        total: Doubles = (square if weights is None else weights * square).sum(axis=1, dtype=np.float64)
    return total
