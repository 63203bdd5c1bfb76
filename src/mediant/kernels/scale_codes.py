"""Group scales in a few bits each, relative to a row scale.

A scale is row_scale * (-1)^sign * 2^(-k/8), with the sign in the top bit of a code and k below it; k = all ones
means 0. The constants 2^(-k/8) are rounded to float32, and so is the product. With 16 bits a group's scale is a
bfloat16 of its own, and so is the row scale: a scale needs range more than precision, since the integer codes are
chosen for the scale as it is stored. Five bits of k lose under 1 % of the squared error that 16 bits reach.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediant.kernels.bfloat16 import from_float32, to_float32

STEPS_PER_OCTAVE = 8
FULL = 16


def encode_scales(scale: NDArray[np.float32], bits: int) -> dict[str, NDArray[Any]]:
    """Parts for scales [rows, groups]: `scales`, or `row_scales` [rows] and unpacked `scale_codes` [rows, groups].

    Raises:
        ValueError: `bits` is neither 16 nor from 3 to 8.
    """
    if bits == FULL:
        return {"scales": from_float32(scale)}
    powers = _powers(bits)
    # Rounded up, so that no group's scale exceeds the row's.
    row = to_float32(from_float32(np.abs(scale).max(axis=1) * np.float32(1 + 2**-8)))
    with np.errstate(divide="ignore", invalid="ignore"):
        octaves = np.log2(row[:, None].astype(np.float64) / np.abs(scale))
    k = np.rint(octaves * STEPS_PER_OCTAVE).clip(0, len(powers) - 2)
    k = np.where(scale == 0, len(powers) - 1, k).astype(np.uint8)
    sign = np.signbit(scale).astype(np.uint8) << (bits - 1)
    return {"row_scales": from_float32(row), "scale_codes": sign | k}


def decode_scales(parts: dict[str, NDArray[Any]], bits: int) -> NDArray[np.float32]:
    """Scales [rows, groups] from what `encode_scales` gives; float32."""
    if bits == FULL:
        return to_float32(parts["scales"])
    powers = _powers(bits)
    code = parts["scale_codes"].astype(np.int64)
    sign = np.where(code >> (bits - 1), np.float32(-1), np.float32(1))
    magnitude = powers[code & (len(powers) - 1)]
    scale: NDArray[np.float32] = to_float32(parts["row_scales"])[:, None] * (sign * magnitude)
    return scale


def _powers(bits: int) -> NDArray[np.float32]:
    if not 3 <= bits <= 8:
        raise ValueError(f"scales take 16 bits or 3 to 8, not {bits}")
    k = np.arange(1 << (bits - 1))
    powers = np.exp2(-k / STEPS_PER_OCTAVE).astype(np.float32)
    powers[-1] = 0
    return powers
