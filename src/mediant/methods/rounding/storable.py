"""The nearest level for each weight by itself, under the best scale for each group that can be stored.

Minimises Σ d_j (w_j - s l_j)^2 for every group of a row, over the levels and over the scales that a code can express
under the row's scale (mediant.kernels.storable_scales), d the diagonal of the layer's metric. It errs as little as
`nearest`, which finds the best scale of all first and rounds it to one that can be stored, in a fifth of the time. It
ignores that errors of different weights add up in a layer's output: `babai` loses far less where calibration has seen
the inputs. It needs no calibration and looks at one row at a time.

It needs scales of at most 8 bits and a grid without zero points; levels are those of single weights, not of pairs.

Source: the scale search of `babai` (Frantar et al. 2022, arXiv 2210.17323, has absmax scales in its place).

Cost: some twenty comparisons with every level for each weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.errors import PlanError
from mediant.kernels.bfloat16 import from_float32
from mediant.kernels.scale_codes import FULL, decode_scales
from mediant.kernels.storable_scales import storable_scales
from mediant.methods.layer import Layer
from mediant.methods.rounding import RoundedRows, Setting
from mediant.methods.scales.exact import Exact
from mediant.values import Array

REFERENCES = (
    "Frantar et al. 2022, GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, "
    "arXiv:2210.17323",
)
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Storable:
    """Nearest level under the best scale that can be stored; it has no parameters."""

    def round(self, layer: Layer, levels: NDArray[np.float64], setting: Setting) -> RoundedRows:
        """Returns codes and scales of a layer's rows.

        Raises:
            PlanError: the scales are not exact, or of 16 bits, or the grid has zero points.
        """
        grid, scale, group, form = setting
        if grid.zero_point or not isinstance(scale, Exact) or form.bits == FULL:
            raise PlanError(
                "Storable rounding goes with exact scales of at most 8 bits and a grid without zero points."
            )
        found = storable_scales(layer.matrix, _weights(layer), levels.astype(np.float32), group, form)
        stored: dict[str, Array] = {"row_scales": from_float32(found.row_scales), "scale_codes": found.scale_codes}
        scales = decode_scales(stored, form)
        return RoundedRows(stored, scales, np.zeros_like(scales), found.codes)


def _weights(layer: Layer) -> NDArray[np.float32]:
    """Returns the diagonal of the metric [columns], at most 1."""
    metric = layer.whole.metric()
    diagonal = metric if metric.ndim == 1 else np.diag(metric)
    peak = float(diagonal.max(initial=0))
    return (diagonal / peak if peak > 0 else np.ones_like(diagonal)).astype(np.float32)


METHOD = Storable
