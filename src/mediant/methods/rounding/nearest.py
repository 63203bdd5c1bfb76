"""The nearest level for each weight by itself.

Minimises |w - s (l - z)| for every weight, and so every sum Σ h (w - w^)^2 with a diagonal metric. It ignores that
errors of different weights add up in a layer's output: roundings that use the full Hessian lose far less there. Needs
no calibration.

Ties take the lower level. Where the scale is 0 the code is that of the level nearest the zero. The comparison is made
in float64 on w/s + z, as `mediant.kernels.nearest_code` states.

Args of `codes`: float32 groups [groups, size], scale and zero [groups], float64 levels, ascending.

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

REFERENCES = ("Jacob et al. 2018, Quantization and Training of Neural Networks, arXiv:1712.05877",)
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Nearest:
    """Nearest level, ties down; it has no parameters."""

    def codes(
        self,
        groups: NDArray[np.float32],
        scale: NDArray[np.float32],
        zero: NDArray[np.float32],
        levels: NDArray[np.float64],
    ) -> NDArray[np.uint8]:
        """Codes of [groups, size] weights under the given scale and zero [groups].

        Raises:
            ValueError: the shapes do not fit.
        """
        return nearest_code(groups, scale, zero, levels)


METHOD = Nearest
