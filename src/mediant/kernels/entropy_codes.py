"""Whole numbers as a stream of bits, each written by the table of its class: asymmetric numeral systems.

A table gives both numbers of magnitude m the same share f[m] / 2^16 of the code space, so that
f[0] + 2 (f[1] + f[2] + ...) = 2^16. Numbers are coded class by class, in each class in the order of the array, into one
stream; its decoder (Duda 2009, arXiv 0902.0271, section 3; in the streaming form of the library `constriction`, with
32-bit words, a 64-bit state and 24 bits of precision) takes integers only. The library wants floats, but these are
whole numbers below 2^24 and are added without rounding (`_model`), so every machine gets the same table.

Cost: some 20 ns a number. Overhead over the entropy of the tables: at most 8 bytes for a stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import constriction
import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Numbers = NDArray[np.int16]
Bytes = NDArray[np.uint8]

TOTAL = 1 << 16
PRECISION = 24
WORD = np.dtype("<u4")
MOST_MAGNITUDE = 32767


def count(numbers: Numbers, classes: Bytes) -> Integers:
    """How often each magnitude occurs in each class, [classes, magnitudes]; arguments as for `fit_tables`."""
    magnitudes, flat = np.abs(numbers.reshape(-1).astype(np.int32)), classes.reshape(-1)
    width = int(magnitudes.max(initial=0)) + 1
    cells = width * (int(flat.max(initial=0)) + 1)
    counted: Integers = np.bincount(flat.astype(np.int64) * width + magnitudes, minlength=cells)
    return counted.reshape(-1, width)


def fit_tables(numbers: Numbers, classes: Bytes) -> list[Integers]:
    """The table of each class up to the highest, [magnitudes] each; empty for a class that does not occur.

    Args:
        numbers: int16, any shape.
        classes: uint8, same shape.
    """
    return [fit_table(row) for row in count(numbers, classes)]


def fit_table(counts: Integers) -> Integers:
    """The table for magnitudes that occur so often [magnitudes]: shares to the nearest, at least 1 for what occurs."""
    total = int(counts.sum())
    if total == 0:
        return np.zeros(0, np.int64)
    last = int(np.flatnonzero(counts)[-1])
    table = (counts[: last + 1] * TOTAL + total) // (2 * total)
    table = np.where(counts[: last + 1] > 0, np.maximum(table, 1), 0)
    # Zero has the rest, and at least the least that it can; where rounding up took that, the commonest give some back.
    while (rest := TOTAL - 2 * int(table[1:].sum())) < 2:
        commonest = 1 + int(np.argmax(table[1:]))
        table[commonest] -= min(1 - rest // 2, int(table[commonest]) // 2)
    table[0] = rest
    return table


def tables_to_bytes(tables: Sequence[Integers]) -> Bytes:
    """For each class the number of its magnitudes and f[1], f[2], ... as LEB128 (f[0] is the rest)."""
    found = bytearray()
    for table in tables:
        for value in (len(table), *map(int, table[1:])):
            while value > 127:
                found.append(value & 127 | 128)
                value >>= 7
            found.append(value)
    return np.frombuffer(bytes(found), np.uint8)


def tables_from_bytes(data: Bytes) -> list[Integers]:
    """The inverse of `tables_to_bytes`.

    Raises:
        ValueError: they are no such tables.
    """
    values, tables = _leb128(data), []
    for count in values:
        if count > MOST_MAGNITUDE + 1:
            raise ValueError("a table of numbers has too many magnitudes")
        shares = np.array([next(values, -1) for _ in range(count - 1)], np.int64)
        rest = TOTAL - 2 * int(shares.sum())
        if shares.min(initial=0) < 0 or (count and rest < 2) or (count > 1 and shares[-1] == 0):
            raise ValueError("a table of numbers is cut off, too full, or ends in nothing")
        tables.append(np.array([rest, *shares][:count], np.int64))
    return tables


def _leb128(data: Bytes) -> Iterator[int]:
    value = shift = 0
    for byte in data.tolist():
        value |= (byte & 127) << shift
        shift += 7
        if shift > 21:
            raise ValueError("a number in the tables is too long")
        if byte < 128:
            yield value
            value = shift = 0
    if shift:
        raise ValueError("the tables of numbers are cut off")


def encode(numbers: Numbers, classes: Bytes, tables: Sequence[Integers]) -> Bytes:
    """The stream [bytes] of numbers, whose tables have a share for each of them; arguments as for `fit_tables`."""
    coder = constriction.stream.stack.AnsCoder()
    flat = numbers.reshape(-1)
    for table, where in reversed(list(_by_class(classes, tables))):
        levels = _levels(table)
        indices = np.searchsorted(levels, flat[where]).astype(np.int32)
        coder.encode_reverse(indices, _model(table, levels))
    return np.asarray(coder.get_compressed()).astype(WORD).view(np.uint8)


def decode(stream: Bytes, classes: Bytes, tables: Sequence[Integers]) -> Numbers:
    """The numbers of a stream, int16 in the shape of `classes`.

    Raises:
        ValueError: the stream is not one of these classes and tables.
    """
    words = stream.view(WORD).astype(np.uint32) if stream.size % WORD.itemsize == 0 else None
    if words is None or (words.size and words[-1] == 0):
        raise ValueError("a stream of numbers is cut off")
    coder = constriction.stream.stack.AnsCoder(words)
    numbers = np.zeros(classes.size, np.int16)
    for table, where in _by_class(classes, tables):
        levels = _levels(table)
        numbers[where] = levels[np.asarray(coder.decode(_model(table, levels), len(where)))]
    if not coder.is_empty():
        raise ValueError("a stream of numbers does not end where its last number does")
    return numbers.reshape(classes.shape)


def _by_class(classes: Bytes, tables: Sequence[Integers]) -> Iterator[tuple[Integers, Integers]]:
    """Each class whose numbers are coded: its table and where they are. A table of 0 alone leaves nothing to code."""
    flat = classes.reshape(-1)
    occurring = np.flatnonzero(np.bincount(flat))
    if any(index >= len(tables) or not len(tables[index]) for index in occurring.tolist()):
        raise ValueError("a number has a class without a table")
    for index in occurring.tolist():
        if len(tables[index]) > 1:
            yield tables[index], np.flatnonzero(flat == index)


def _levels(table: Integers) -> Numbers:
    """The numbers with a share, ascending."""
    magnitudes = np.flatnonzero(table)
    return np.concatenate([-magnitudes[:0:-1], magnitudes]).astype(np.int16)


def _model(table: Integers, levels: Numbers) -> object:
    """The table as the library takes it.

    From weights that add up to 2^24 - n, n levels, the library gives level i the share 1 + weight i: what it computes
    in floats are sums of whole numbers below 2^24 and a division of equals.
    """
    shares = table[np.abs(levels.astype(np.int64))] << PRECISION - 16
    return constriction.stream.model.Categorical((shares - 1).astype(np.float32), perfect=False)
