"""The code of the nearest level: for each weight, the number of middles between levels that lie below w/s + z.

Everything is computed in float64, where the float32 quotient w/s is rounded once and a weight in the exact middle
between two levels is seen as such: it takes the lower level. Where s = 0 the quotient counts as 0, so that the code is
that of the level nearest z. A negative s mirrors the weights, not the rule for ties.

Cost: one division and log2 of the number of levels comparisons for each weight.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import native, threads

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Codes = NDArray[np.uint8]

# Below this many weights a thread costs more than it saves.
_WEIGHTS_PER_THREAD = 1 << 17


def nearest_code(groups: Floats, scale: Floats, zero: Floats, levels: Doubles) -> Codes:
    """Returns codes of the levels nearest the weights.

    Args:
        groups: float32 [groups, size], finite.
        scale: float32 [groups], finite, of either sign.
        zero: float32 [groups], finite.
        levels: float64 [1 to 256], ascending.

    Returns:
        uint8 [groups, size].

    Raises:
        ValueError: the shapes do not fit, or there are too many levels or none.

    >>> w = np.float32([[-3, -1, 0.5, 1, 1.5, 9]])
    >>> nearest_code(w, np.float32([2]), np.float32([0]), np.array([-1.0, 0, 1])).tolist()
    [[0, 0, 1, 1, 2, 2]]
    """
    if scale.shape != groups.shape[:1] or zero.shape != groups.shape[:1]:
        raise ValueError(f"groups of shape {groups.shape} need {len(groups)} scales and zeros")
    if not 1 <= len(levels) <= 256:
        raise ValueError(f"a code has 1 to 256 levels, not {len(levels)}")
    if native is None:
        return nearest_code_reference(groups, scale, zero, levels)
    codes = np.empty(groups.shape, np.uint8)
    count = min(threads(), 1 + groups.size // _WEIGHTS_PER_THREAD)
    native.nearest_code(_floats(groups), _floats(scale), _floats(zero), _middles(levels), codes, count)
    return codes


def nearest_code_reference(groups: Floats, scale: Floats, zero: Floats, levels: Doubles) -> Codes:
    """`nearest_code` in NumPy, for checked arguments."""
    s = scale.astype(np.float64)[:, None]
    quotient = np.zeros(groups.shape)
    np.divide(groups, s, out=quotient, where=s != 0)
    return np.searchsorted(_middles(levels), quotient + zero[:, None]).astype(np.uint8)


def _middles(levels: Doubles) -> Doubles:
    return (levels[:-1] + levels[1:]) / 2


def _floats(values: Floats) -> Floats:
    return np.ascontiguousarray(values, np.float32)
