"""bfloat16: the upper half of a float32. NumPy has no such type, so its bit patterns travel as uint16.

Rounding is to nearest, ties to the even pattern. A NaN stays one, with the bits that fit; so every pattern
survives the way to float32 and back.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_QUIET = np.uint32(0x40)


def from_float32(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Returns the nearest bfloat16 of each value, as uint16 of the same shape; too large a value becomes infinite.

    >>> [hex(p) for p in from_float32(np.float32([1, 1 + 2**-8, 1 + 3 * 2**-8])).tolist()]
    ['0x3f80', '0x3f80', '0x3f82']
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    upper = bits >> 16
    rounded = upper & 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    if (nan := np.isnan(bits.view(np.float32))).any():
        # A NaN whose set bits all lie in the lower half would turn into an infinity.
        rounded[nan] = np.where(upper & 0x7F, upper, upper | _QUIET)[nan]
    return rounded.astype(np.uint16).reshape(np.shape(values))


def to_float32(patterns: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Returns the float32 of each pattern, exactly; same shape.

    >>> to_float32(np.array([0x3F80, 0xC000], np.uint16)).tolist()
    [1.0, -2.0]
    """
    wide = np.ascontiguousarray(patterns, np.uint16).astype(np.uint32) << 16
    return wide.view(np.float32).reshape(np.shape(patterns))
