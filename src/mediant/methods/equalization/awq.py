"""AWQ: columns with large inputs are scaled up before rounding, by a power of their input found by search.

Minimises the loss tr(E H E^T) of the errors E of rounding W diag(s) and scaling back, over s = x^alpha, where x_j is
the size of input j, for alpha = 0, 1/grid, ..., (grid - 1)/grid: a large input's weights are rounded more finely, at
the price of those that share a scale with them. `smoothquant` balances by a rule instead, for rounded activations. It
needs far less text than roundings by the Hessian, and gains far less.

Args of `factors`: the layer, and the loss as a function of the factors 1/s, [columns], no unit.

Source: Lin et al. 2023 (arXiv 2306.00978), section 3.2, equations 4 and 5; the normalisation of s by the root of its
least times its largest is that of the authors' code. Deviations: (1) x_j is the root mean square of input j, as we keep
it, not the mean magnitude; (2) factors belong to a matrix and are stored with it, 16 bits a column, where the paper
folds one set for q, k and v into the norm before them; (3) the loss is that of the calibrated Hessian's diagonal where
no other was measured; (4) clipping is the search of methods/scales/clipped.py.

Cost: `grid` roundings of a sample of rows.

>>> powers(np.array([1.0, 16.0]), 0.5).tolist()
[0.5, 2.0]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.kernels.bfloat16 import from_float32, to_float32
from mediant.methods.equalization import Loss
from mediant.methods.layer import Layer

REFERENCES = (
    "Lin et al. 2023, AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and Acceleration, "
    "arXiv:2306.00978",
)
NEEDS: tuple[str, ...] = ()

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# Of the mean, so that an input that never moves keeps a factor that can be stored.
LEAST_INPUT = 1e-4


@dataclass(frozen=True)
class Awq:
    """`grid` exponents are tried, from 0 to below 1."""

    grid: int = 20

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise ValueError(f"a grid has at least 1 exponent, not {self.grid}")

    def factors(self, layer: Layer, loss: Loss) -> Floats:
        """1/s of the exponent with the least loss; of equal ones the least."""
        x = input_sizes(layer)
        candidates = [stored(1 / powers(x, step / self.grid)) for step in range(self.grid)]
        return min(candidates, key=loss)


METHOD = Awq


def input_sizes(layer: Layer) -> Doubles:
    """Root mean square of every input [columns], up to one factor for all; none is 0."""
    metric = layer.metric()
    x: Doubles = np.sqrt(metric if metric.ndim == 1 else np.diag(metric))
    mean = float(x.mean())
    return np.maximum(x, LEAST_INPUT * mean) if mean > 0 else np.ones_like(x)


def powers(x: Doubles, alpha: float) -> Doubles:
    """x^alpha, scaled so that its least and its largest are as far from 1."""
    s: Doubles = x**alpha
    return np.asarray(s / np.sqrt(s.min() * s.max()))


def stored(factors: Doubles) -> Floats:
    """Factors as the file holds them."""
    return to_float32(from_float32(factors.astype(np.float32)))
