"""Babai's nearest plane in the layer's Hessian metric, with scales found on the way: GPTQ with better scales.

Minimises (w^ - w) M (w^ - w)^T for every row, M the damped Hessian of the layer's inputs, over codes and over all group
scales that can be stored (mediant.kernels.babai has the steps). Unlike `nearest` it lets the error of one weight be
made good by those that are rounded after it. It needs calibration with some tens of tokens per input, and scales of at
most 8 bits. Not for matrices whose inputs are not known, such as experts that saw few tokens.

Source: Frantar et al. 2022 (arXiv 2210.17323), section 3; Chen et al. 2025 (arXiv 2507.18553) for the equality with
Babai's algorithm. Deviations: (1) scales are not fixed beforehand by absmax but chosen, when a group is reached, as the
best that can be stored, in the metric of the errors that are carried on; (2) `sweeps` rounds of coordinate descent
(mediant.kernels.descent) follow; (3) damping is 1 % of the mean diagonal, as in GPTQ, and dead inputs get the mean;
(4) with another `order` than the natural one, columns of a group stay together, as they share a scale; (5) where the
levels are points [2, 16] of a codebook of pairs, two columns are rounded at a time (mediant.kernels.pair_babai).

Cost: columns^3 once, then columns^2 / 2 multiply-adds a row, and as much again for each sweep.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.errors import PlanError
from mediant.kernels.babai import MetricFactors, Rounded, babai
from mediant.kernels.bfloat16 import from_float32
from mediant.kernels.descent import descent
from mediant.kernels.pair_babai import pair_babai
from mediant.kernels.pair_descent import pair_descent
from mediant.kernels.pairs import paired_columns
from mediant.kernels.scale_codes import FULL, ScaleForm, decode_scales
from mediant.methods.error_bounds import outside
from mediant.methods.layer import Layer
from mediant.methods.rounding import RoundedRows, Setting
from mediant.methods.scales.exact import Exact
from mediant.statistics.column_order import NATURAL, ORDERS, PAIRS
from mediant.values import Array

REFERENCES = (
    "Frantar et al. 2022, GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, "
    "arXiv:2210.17323",
    "Chen et al. 2025, The Geometry of LLM Quantization: GPTQ as Babai's Nearest Plane Algorithm, arXiv:2507.18553",
)
NEEDS = ("hessian",)


@dataclass(frozen=True)
class Babai:
    """`sweeps` rounds of descent after the nearest plane; `damping` as a share of the mean diagonal.

    `order` is that in which columns are rounded: `natural`, `largest` diagonal first, or by minimal `pivot`
    (statistics/column_order.py). Groups stay together, so nothing has to be stored about it.
    """

    sweeps: int = 4
    damping: float = 0.01
    order: str = NATURAL

    def __post_init__(self) -> None:
        if self.sweeps < 0 or not 0 < self.damping < 1e6:
            raise ValueError("sweeps are counted from 0, and damping is a positive share")
        if self.order not in ORDERS:
            raise ValueError(f"the order is one of {', '.join(ORDERS)}")

    @property
    def takes_pairs(self) -> bool:
        """True where the columns of a pair can be neighbours in the order."""
        return type(self) is Babai and self.order == NATURAL

    def round(self, layer: Layer, levels: NDArray[np.float64], setting: Setting) -> RoundedRows:
        """Returns codes and scales of a layer's rows.

        Raises:
            PlanError: the scales are not exact, or of 16 bits, or the grid has zero points.
        """
        grid, scale, group, form = setting
        if grid.zero_point or not isinstance(scale, Exact) or form.bits == FULL:
            raise PlanError("Babai rounding goes with exact scales of at most 8 bits and a grid without zero points.")
        factored = layer.factored(self.damping, PAIRS if hasattr(grid, "paired") else self.order, group)
        found = self.on_factors(layer.matrix, factored, levels, group, form)
        stored: dict[str, Array] = {"row_scales": from_float32(found.row_scales), "scale_codes": found.scale_codes}
        scales = decode_scales(stored, form)
        return RoundedRows(stored, scales, np.zeros_like(scales), found.codes, factored, found.outside)

    def on_factors(
        self,
        matrix: NDArray[np.float32],
        factored: MetricFactors,
        levels: NDArray[np.float64],
        group: int,
        form: ScaleForm,
    ) -> Rounded:
        """Returns codes and scales of a matrix [rows, columns]; the factors may be those of reordered columns.

        Levels are [count], or points [2, 16], which need pairs to be neighbours in the factors' order.

        Raises:
            ValueError: `form` has 16 bits.
        """
        table = levels.astype(np.float32)
        w = matrix if factored.order is None else matrix[:, factored.order]
        in_pairs, pairs = table.ndim == 2, paired_columns(w.shape[1])
        if in_pairs:
            found = pair_babai(w, factored, table, group, form, pairs)
        else:
            found = self.nearest_planes(w, factored, table, group, form)
        codes, scales = found.codes, found.scales(form)
        decoded = np.repeat(scales, group, axis=1)[:, : w.shape[1]] * table.reshape(-1)[codes]
        beyond = outside(w - decoded, factored, scales, table, group)
        if self.sweeps and in_pairs:
            codes = pair_descent(w, codes, scales, factored.metric, table, group, pairs, self.sweeps)
        elif self.sweeps:
            codes = descent(w, codes, scales, factored.metric, table, group, self.sweeps)
        return in_place(Rounded(codes, found.row_scales, found.scale_codes, beyond), factored.order, group)

    def nearest_planes(
        self,
        matrix: NDArray[np.float32],
        factored: MetricFactors,
        levels: NDArray[np.float32],
        group: int,
        form: ScaleForm,
    ) -> Rounded:
        """Returns codes and scales of a matrix [rows, columns] in the factors' order, before descent."""
        return babai(matrix, factored, levels, group, form)


def in_place(found: Rounded, order: NDArray[np.int64] | None, group: int) -> Rounded:
    """Moves results for the columns `order` of a matrix back to the matrix's own order."""
    if order is None:
        return found
    back = np.argsort(order)
    whose = back[::group] // group
    return Rounded(found.codes[:, back], found.row_scales, found.scale_codes[:, whose], found.outside)


METHOD = Babai
