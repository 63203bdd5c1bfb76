"""Reading memory, to learn how fast it can be read: the floor under everything that reads each weight once.

Native code reads eight far streams in each thread, since one stream alone gets two thirds of what a core can draw.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import native, threads


def read_memory(words: NDArray[np.uint64], count: int | None = None) -> int:
    """Returns the exclusive or of all 64-bit words, by `count` threads (by default those of `threads()`).

    >>> read_memory(np.array([1, 2, 7], np.uint64), 2)
    4
    """
    if native is None:
        return read_memory_reference(words)
    return int(native.read_memory(np.ascontiguousarray(words), count or threads()))


def read_memory_reference(words: NDArray[np.uint64]) -> int:
    """`read_memory` in NumPy."""
    return int(np.bitwise_xor.reduce(words))
