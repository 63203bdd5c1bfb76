"""The nearest level for each weight by itself.

Minimises |w - s (l - z)| for every weight, and so every sum Σ h (w - w^)^2 with a diagonal metric. It ignores that
errors of different weights add up in a layer's output: roundings that use the full Hessian lose far less there. Needs
no calibration.

Ties take the lower level. Where the scale is 0 the code is that of the level nearest the zero. The comparison is made
in float64 on w/s + z, as `mediant.kernels.nearest_code` states.

Args of `codes`: float32 groups [groups, size], scale and zero [groups], float64 levels, ascending. `round` fits the
scales first, by the plan's scale, to the weights and their diagonal sensitivities.

Source: Jacob et al. 2018 (arXiv 1712.05877), equation (12). Deviation: (1) ties go down instead of to even, for
tables whose levels are not integers.

Cost: b comparisons for each weight.

>>> levels = np.arange(-4.0, 4)
>>> codes = Nearest().codes(np.float32([[-9, -1, 0.5, 1]]), np.float32([1]), np.float32([0]), levels)
>>> levels[codes].tolist()
[[-4.0, -1.0, 0.0, 1.0]]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.kernels.nearest_code import nearest_code
from mediant.kernels.scale_codes import decode_scales, encode_scales
from mediant.methods.groups import group_weights, sensitivities, to_groups
from mediant.methods.layer import Layer
from mediant.methods.rounding import RoundedRows, Setting

REFERENCES = ("Jacob et al. 2018, Quantization and Training of Neural Networks, arXiv:1712.05877",)
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Nearest:
    """Nearest level, ties down; it has no parameters."""

    def round(self, layer: Layer, levels: NDArray[np.float64], setting: Setting) -> RoundedRows:
        """Returns codes of a layer's rows, scales fitted to its groups."""
        rows, columns = layer.matrix.shape
        groups = to_groups(layer.matrix, setting.group)
        h = group_weights(sensitivities(layer.statistics, slice(0, rows)), (rows, columns), setting.group)
        fit = setting.scale.fit(groups, h, levels, setting.grid.zero_point)
        stored = encode_scales(fit.scale.reshape(rows, -1), setting.form)
        scale = decode_scales(stored, setting.form)
        codes = self.codes(groups, scale.reshape(-1), fit.zero, levels)
        return RoundedRows(stored, scale, fit.zero.reshape(rows, -1), codes.reshape(rows, -1)[:, :columns])

    def codes(
        self,
        groups: NDArray[np.float32],
        scale: NDArray[np.float32],
        zero: NDArray[np.float32],
        levels: NDArray[np.float64],
    ) -> NDArray[np.uint8]:
        """Returns codes of [groups, size] weights under the given scale and zero [groups].

        Raises:
            ValueError: the shapes do not fit.
        """
        return nearest_code(groups, scale, zero, levels)


METHOD = Nearest
