"""The levels of least squared error for normally distributed weights: the Lloyd-Max quantizer of the bell curve.

Minimises E (x - l(x))^2 over 2^b levels for x ~ N(0, 1). A rotation makes a layer's weights normal, so there nothing
has to be fitted: unlike `lloyd` the table is the same for every matrix. On weights with heavy tails `lloyd` errs less;
from about 6 bits on `uniform` is as good and needs no table.

Levels are in units of the standard deviation; symmetric, without a level at 0.

Source: Max 1960, Quantizing for minimum distortion; Lloyd 1982, Least squares quantization in PCM, whose method I this
is, from levels spaced by the cube root of the density (Panter & Dite 1951).

Cost: 4^b additions once per bit width.

>>> Gaussian().levels(2).round(4).tolist()
[-1.5104, -0.4528, 0.4528, 1.5104]
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

REFERENCES = (
    "Max 1960, Quantizing for minimum distortion, IRE Transactions on Information Theory 6(1)",
    "Lloyd 1982, Least squares quantization in PCM, IEEE Transactions on Information Theory 28(2)",
)
NEEDS: tuple[str, ...] = ()
ROUNDS = 4000
# Lloyd's steps shrink slowly; going further each time gets there sooner, and up to 2 it does not leave the optimum.
OVERSHOOT = 1.9


@dataclass(frozen=True)
class Gaussian:
    """Lloyd-Max levels of the standard normal distribution; it has no parameters."""

    @property
    def zero_point(self) -> bool:
        """False: groups store no zero."""
        return False

    def levels(
        self, bits: int, sample: NDArray[Any] | None = None, weights: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """Returns 2^bits levels; `sample` and `weights` are not looked at.

        Raises:
            ValueError: bits out of 1..8.
        """
        if not 1 <= bits <= 8:
            raise ValueError(f"a gaussian grid has 1 to 8 bits, not {bits}")
        levels: NDArray[np.float64] = _levels(bits).copy()
        return levels


@cache
def _levels(bits: int) -> NDArray[np.float64]:
    levels: NDArray[np.float64] = np.sqrt(3) * ndtri((np.arange(2**bits) + 0.5) / 2**bits)
    for _ in range(ROUNDS):
        middles = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        density = np.exp(-np.square(middles) / 2) / np.sqrt(2 * np.pi)
        centroids = -np.diff(density) / np.diff(ndtr(middles))
        levels = levels + OVERSHOOT * (centroids - levels)
        levels = (levels - levels[::-1]) / 2
    return levels


METHOD = Gaussian
