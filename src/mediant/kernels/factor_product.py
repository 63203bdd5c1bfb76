"""The product of two thin factors as every reader of a checkpoint must get it, bit for bit.

w_ij = b_ij + left_i0 right_0j + left_i1 right_1j + ..., added up from left to right in float64, then rounded once to
float32. A product of two float32 numbers is exact in float64, so a fused multiply-add gives the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import native, threads

Floats = NDArray[np.float32]

# Rows that are added up at a time by the reference: their sums stay in the cache.
_ROWS = 32
# Below this many multiplications a thread costs more than it saves.
_WORK_PER_THREAD = 1 << 20


def factor_product(left: Floats, right: Floats, start: Floats | None = None) -> Floats:
    """Left @ right, plus `start` if it is given.

    Args:
        left: float32 [rows, rank].
        right: float32 [rank, columns].
        start: float32 [rows, columns], or None for zeros.

    Returns:
        float32 [rows, columns].

    Raises:
        ValueError: the shapes do not fit.

    >>> factor_product(np.float32([[1], [2]]), np.float32([[3, 4]]), np.float32([[1, 1], [0, 0]])).tolist()
    [[4.0, 5.0], [6.0, 8.0]]
    """
    shape = (len(left), right.shape[1])
    if left.shape[1] != len(right) or (start is not None and start.shape != shape):
        raise ValueError(f"factors of shapes {left.shape} and {right.shape} do not fit, or not what they are added to")
    if native is None:
        return factor_product_reference(left, right, start)
    out = np.zeros(shape, np.float32) if start is None else np.array(start, np.float32, order="C")
    count = min(threads(), 1 + left.size * shape[1] // _WORK_PER_THREAD)
    native.factor_product(np.ascontiguousarray(left), np.ascontiguousarray(right), out, count)
    return out


def factor_product_reference(left: Floats, right: Floats, start: Floats | None = None) -> Floats:
    """`factor_product` in NumPy, for checked arguments."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    out = np.empty((len(a), b.shape[1]), np.float32)
    for begin in range(0, len(a), _ROWS):
        rows = slice(begin, begin + _ROWS)
        total = np.zeros(out[rows].shape) if start is None else start[rows].astype(np.float64)
        for k in range(len(b)):
            total += a[rows, k, None] * b[k]
        out[rows] = total
    return out
