"""SmoothQuant: inputs hand part of their range over to the weights, so that both can be rounded.

Column j of the weights is multiplied, and input j divided, by s_j = max|x_j|^alpha / max|w_j|^(1 - alpha), which for
alpha = 1/2 gives both the same range. It minimises nothing measured: it is a rule, for models whose activations are
rounded too. For weights alone it does harm where inputs with large ranges have small weights; `awq` searches instead.

Args of `factors`: the layer; the loss is not looked at. Result: 1/s [columns], no unit.

Source: Xiao et al. 2022 (arXiv 2211.10438), section 4, equation 4. Deviations: (1) max|x_j| is taken as a multiple of
the root mean square, which is what we keep of inputs; the multiple cancels; (2) factors are stored with each matrix, 16
bits a column, not folded into the norm before it, so every matrix may have its own, the output projections too.

Cost: O(n) for n weights.

>>> rule(np.array([4.0, 1.0]), np.array([1.0, 4.0]), 0.5).tolist()
[2.0, 0.5]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.methods.equalization import Loss
from mediant.methods.equalization.awq import input_sizes, stored
from mediant.methods.layer import Layer

REFERENCES = (
    "Xiao et al. 2022, SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models, "
    "arXiv:2211.10438",
)
NEEDS: tuple[str, ...] = ()

Doubles = NDArray[np.float64]

# Of the largest column, so that a column of zeros has a factor that can be stored.
LEAST_WEIGHT = 1e-4


@dataclass(frozen=True)
class Smoothquant:
    """`alpha` is the share of the inputs' range that the weights take over."""

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is a share from 0 to 1, not {self.alpha}")

    def factors(self, layer: Layer, loss: Loss) -> NDArray[np.float32]:
        """1/s, scaled so that its least and its largest are as far from 1."""
        ranges = np.abs(layer.matrix).max(axis=0).astype(np.float64)
        most = float(ranges.max())
        ranges = np.maximum(ranges, LEAST_WEIGHT * most) if most > 0 else np.ones_like(ranges)
        s = rule(input_sizes(layer), ranges, self.alpha)
        return stored(np.sqrt(s.min() * s.max()) / s)


METHOD = Smoothquant


def rule(inputs: Doubles, weights: Doubles, alpha: float) -> Doubles:
    """S = inputs^alpha / weights^(1 - alpha), of ranges [columns]."""
    return np.asarray(inputs**alpha / weights ** (1 - alpha))
