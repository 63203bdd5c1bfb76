"""Weights in pairs: which columns belong together, and what becomes of their codes.

In every eight columns, column j < 4 and column j + 4 are a pair, as a byte of tiles has the codes of both (tiles.py).
Of a shorter last eight, columns without a partner are singles. A codebook [2, 16] has the first and the second weight
of every pair; the index p = a + 4 b of a pair is stored as the codes a and b of its columns, 2 bits each. A single has
b = 0, so it takes one of the first four.

In memory, the code of a weight is its place in the flat codebook: p in first columns and singles, 16 + p in second
ones. So what looks up levels by code needs to know nothing of pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

SPAN, APART = 8, 4
PAIRS, SINGLES = 16, 4
# Numbers of a stored codebook, which 2 bits alone cannot number.
ENTRIES = 2 * PAIRS
BITS = 2


def is_codebook(bits: int, entries: int) -> bool:
    """Returns True if a table of so many entries at a bit width is a codebook of pairs.

    >>> is_codebook(2, 32), is_codebook(2, 4), is_codebook(5, 32)
    (True, False, False)
    """
    return bits == BITS and entries == ENTRIES


def paired_columns(columns: int) -> int:
    """Returns the number of columns, of so many, that have a partner.

    >>> paired_columns(16), paired_columns(14), paired_columns(11)
    (16, 12, 8)
    """
    return columns // SPAN * SPAN + 2 * max(0, columns % SPAN - APART)


def pair_order(columns: int) -> NDArray[np.int64]:
    """Order of columns in which pairs are neighbours and singles come last.

    >>> pair_order(13).tolist()
    [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 10, 11]
    """
    spans = np.arange(-(-columns // SPAN) * SPAN, dtype=np.int64).reshape(-1, 2, APART).transpose(0, 2, 1)
    order = spans.reshape(-1)
    last = order[columns // SPAN * SPAN :].reshape(-1, 2)
    whole = last[:, 1] < columns
    singles = last[~whole, 0]
    return np.concatenate([order[: columns // SPAN * SPAN], last[whole].reshape(-1), singles[singles < columns]])


def split(codes: Bytes) -> Bytes:
    """Returns codes of 2 bits, as they are stored, for codes [rows, columns] in memory.

    >>> split(np.array([[5, 0, 0, 0, 16 + 5]], np.uint8)).tolist()
    [[1, 0, 0, 0, 1]]
    """
    digits = codes & np.uint8(SINGLES - 1)
    second = _second(codes.shape[1])
    digits[:, second] = codes[:, second] >> np.uint8(2) & np.uint8(SINGLES - 1)
    return digits


def join(digits: Bytes) -> Bytes:
    """Returns the inverse of `split`."""
    codes = digits.copy()
    second = _second(digits.shape[1])
    codes[:, second - APART] |= digits[:, second] << np.uint8(2)
    codes[:, second] = codes[:, second - APART] + np.uint8(PAIRS)
    return codes


def _second(columns: int) -> NDArray[np.int64]:
    """Returns the columns that are the second of a pair."""
    every = np.arange(columns)
    return every[every % SPAN >= APART]
