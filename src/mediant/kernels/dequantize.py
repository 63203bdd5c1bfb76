"""Codes, scales and zeros of a matrix back to weights: w = s (level[code] - z), group by group.

The difference and the product are each rounded once to float32, so every reader of a checkpoint gets the same bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import native, threads

Floats = NDArray[np.float32]

# Below this many weights a thread costs more than it saves.
_WEIGHTS_PER_THREAD = 1 << 17


def dequantize(
    codes: NDArray[np.uint8],
    scale: Floats,
    zero: Floats | None,
    levels: Floats,
    group: int,
    out: Floats | None = None,
) -> Floats:
    """Decodes a matrix whose rows share one bit width.

    Args:
        codes: uint8 [rows, columns], each below the number of levels.
        scale: float32 [rows, groups], groups = ceil(columns / group).
        zero: float32 [rows, groups], or None for all 0.
        levels: float32, 1-D.
        group: neighbouring columns that share a scale; the last group of a row may be shorter.
        out: where to write, C-contiguous; a new array if None.

    Returns:
        float32 [rows, columns].

    Raises:
        ValueError: the shapes do not fit, or a code has no level.

    >>> dequantize(np.array([[0, 1, 2]], np.uint8), np.float32([[2, 10]]), None, np.float32([-1, 0, 1]), 2).tolist()
    [[-2.0, 0.0, 10.0]]
    """
    rows, columns = codes.shape
    shape = (rows, -(-columns // group))
    if scale.shape != shape or (zero is not None and zero.shape != shape):
        raise ValueError(f"{codes.shape} codes in groups of {group} need scales and zeros of shape {shape}")
    if len(levels) < 256 and codes.size and int(codes.max()) >= len(levels):
        raise ValueError(f"the code {int(codes.max())} is not below the number of levels, {len(levels)}")
    if out is None:
        out = np.empty((rows, columns), np.float32)
    if native is None:
        out[...] = dequantize_reference(codes, scale, zero, levels, group)
        return out
    zeros = np.zeros((0, 0), np.float32) if zero is None else _floats(zero)
    count = min(threads(), 1 + codes.size // _WEIGHTS_PER_THREAD)
    native.dequantize(np.ascontiguousarray(codes), _floats(scale), zeros, _floats(levels), group, out, count)
    return out


def dequantize_reference(
    codes: NDArray[np.uint8], scale: Floats, zero: Floats | None, levels: Floats, group: int
) -> Floats:
    """`dequantize` in NumPy, for checked arguments."""
    columns = codes.shape[1]
    points = levels.astype(np.float32, copy=False)[codes]
    if zero is not None:
        points -= np.repeat(zero, group, axis=1)[:, :columns]
    points *= np.repeat(scale, group, axis=1)[:, :columns]
    return points


def _floats(values: Floats) -> Floats:
    return np.ascontiguousarray(values, np.float32)
