"""A codebook of 16 pairs at 2 bits a weight, for two weights together; from 3 bits on the levels of `gaussian_int`.

Minimises the squared error E |x - c(x)|^2 of two normally distributed weights over 16 points c of the plane. The best
four levels for each by itself leave 0.1175 of the variance, the best 16 points 0.1076: 0.06 bit, which costs a kernel
nothing, since it looks up two codes of 2 bits at once anyway (docs/theory/kernels.md). At 3 bits, 64 pairs would need
four look-ups instead of two.

Points are whole numbers at most 31 apart, so that kernels compute with them exactly; they leave 0.1078. The pair of
index p = a + 4 b has its first weight in column j and its second in column j + 4 of every eight columns, and a and b as
their codes. Points are in four slabs a by their first component, and in a slab in the order b of the second.

Source: Linde, Buzo and Gray 1980, An algorithm for vector quantizer design, IEEE Transactions on Communications 28(1),
from ten starts on 2^16 points; of 46 rotations the one whose whole numbers err least.

Cost: a look-up.

>>> Vq2d().levels(2)[:, 5].tolist()
[0.0, 0.0]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediant.methods.grids.gaussian_int import GaussianInt

REFERENCES = (
    "Linde, Buzo and Gray 1980, An algorithm for vector quantizer design, IEEE Transactions on Communications 28(1)",
    "Max 1960, Quantizing for minimum distortion, IRE Transactions on Information Theory 6(1)",
)
NEEDS: tuple[str, ...] = ()

POINTS = (
    (-9, -2, 1, 11, -15, 0, 5, 15, -7, -5, 2, 7, -13, -5, 5, 12),
    (-12, -7, -15, -12, -3, 0, -6, -2, -2, 5, 7, 1, 7, 14, 15, 8),
)


@dataclass(frozen=True)
class Vq2d(GaussianInt):
    """Pairs at 2 bits, whole-step levels for the bell curve from 3 bits on; it has no parameters."""

    @property
    def paired(self) -> tuple[int, ...]:
        """The bit widths at which weights are rounded in pairs."""
        return (2,)

    def levels(
        self, bits: int, sample: NDArray[Any] | None = None, weights: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """Returns 2^bits levels, or, at 2 bits, the points [2, 16]; `sample` and `weights` are not looked at.

        Raises:
            ValueError: bits out of 2..8.
        """
        if bits < 2:
            raise ValueError(f"a grid of pairs has 2 to 8 bits, not {bits}")
        return np.array(POINTS, np.float64) if bits == 2 else super().levels(bits)


METHOD = Vq2d
