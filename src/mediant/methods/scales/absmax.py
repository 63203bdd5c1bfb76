"""The scale that puts the largest magnitude of a group on an end of the grid, so that nothing clips.

Minimises the largest possible error of a weight, s/2 times the widest gap. At 3 bits, on groups of 64 Gaussian
weights, its squared error is 19 % ("outer") to 100 % ("inner") above that of `exact`; towards 8 bits the difference
goes, and this is much cheaper. Sensitivities only say which weights count.

A table without zero point: s = max |w| / e. `end` = "inner" takes the end e that both sides have, 3 for the levels
-4 .. 3, as is usual for symmetric quantization. "outer" takes the outermost level, -4, and puts the largest weight on
it whatever its sign, so that s = w_max / -4 may be negative; the error is smaller, except for a weight near -w_max.

With a zero point, over the range [lo, hi] of the weights and 0, and the levels q_min .. q_max:

    S = (hi - lo) / (q_max - q_min),   Z = round(q_min - lo / S),   q = clamp(round(w / S) + Z),   w^ = S (q - Z).

0 is kept exactly, and every weight within S/2.

Args of `fit`: float32 groups and sensitivities [groups, size], in the unit of the weights; so is s.

Source: Jacob et al. 2018 (arXiv 1712.05877), section 3; "outer" is the rule of ggml's Q4_0.

Cost: O(n) for n weights.

>>> Absmax().fit(np.float32([[-6, 3]]), None, np.arange(-4.0, 4), False).scale.tolist()
[2.0]
>>> Absmax("outer").fit(np.float32([[-3, 6]]), None, np.arange(-4.0, 4), False).scale.tolist()
[-1.5]
>>> [part.tolist() for part in Absmax().fit(np.float32([[-1, 2]]), None, np.arange(4.0), True)]
[[1.0], [1.0]]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mediant.methods.scales import Fit

REFERENCES = ("Jacob et al. 2018, Quantization and Training of Neural Networks, arXiv:1712.05877",)
NEEDS: tuple[str, ...] = ()

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
End = Literal["inner", "outer"]


@dataclass(frozen=True)
class Absmax:
    """The largest magnitude on the `inner` or `outer` end of the grid."""

    end: End = "inner"

    def __post_init__(self) -> None:
        if self.end not in get_args(End):
            raise ValueError(f"the end {self.end!r} is not one of {', '.join(get_args(End))}")

    def fit(self, groups: Floats, weights: Floats | None, levels: Doubles, zero_point: bool) -> Fit:
        """Scale, and zero, of each group; both 0 for a group of zeros.

        Raises:
            ValueError: the grid has no level but 0.
        """
        if not levels.any():
            raise ValueError("a scale needs a grid with a level other than 0")
        lo, hi = extremes(groups, weights)
        if zero_point:
            return affine(lo, hi, levels)
        if self.end == "inner" or levels[0] == -levels[-1]:
            scale = np.maximum(-lo, hi) / inner_end(levels)
        else:
            scale = np.where(hi >= -lo, hi, lo) / levels[np.argmax(np.abs(levels))]
        return Fit(to_float32(scale), np.zeros(len(groups), np.float32))


METHOD = Absmax


def extremes(groups: Floats, weights: Floats | None) -> tuple[Doubles, Doubles]:
    """Returns the least and the largest of 0 and the weights that count, in each group."""
    counting = groups if weights is None else np.where(weights > 0, groups, 0)
    return counting.min(1, initial=0).astype(np.float64), counting.max(1, initial=0).astype(np.float64)


def inner_end(levels: Doubles) -> float:
    """Returns the end of the symmetric part of a table, or its outermost level if it lies to one side of 0."""
    inner = min(-levels[0], levels[-1])
    return float(inner if inner > 0 else np.abs(levels).max())


def affine(lo: Doubles, hi: Doubles, levels: Doubles) -> Fit:
    """Returns the scale and integer zero for the range [lo, hi] that holds 0."""
    scale = to_float32((hi - lo) / (levels[-1] - levels[0]))
    quotient = np.divide(lo, scale, out=np.zeros(len(lo)), where=scale > 0)
    zero = np.clip(np.rint(levels[0] - quotient), levels[0], levels[-1])
    return Fit(scale, np.where(scale > 0, zero, 0).astype(np.float32))


def to_float32(values: NDArray[Any]) -> Floats:
    """Rounded, and cut off at the largest float32 rather than infinite."""
    most = np.finfo(np.float32).max
    rounded: Floats = np.clip(values, -most, most).astype(np.float32)
    return rounded
