"""Whole numbers as a stream of bits, each written by the table of its class: asymmetric numeral systems.

A table gives both numbers of magnitude m the same share f[m] / 2^24 of the code space, so that
f[0] + 2 (f[1] + f[2] + ...) = 2^24. It is stored as a curve: weights at few magnitudes, its marks, in eight bits each,
between which a weight is linear in the magnitude (`table_of`). The marks are at 0 to 8, 10, 12, 14, 16, 20, 24, ...,
four to an octave, so a table of a hundred magnitudes takes 24 bytes, and its numbers hardly more than with their own
frequencies.

Numbers are coded class by class, in each class in the order of the array, into one stream; its decoder (Duda 2009,
arXiv 0902.0271, section 3; in the streaming form of the library `constriction`, with 32-bit words, a 64-bit state and
24 bits of precision) takes integers only. The library wants floats, but these are whole numbers below 2^24 and are
added without rounding (`_model`), so every machine gets the same table.

Cost: some 20 ns a number. Overhead over the entropy of the tables: at most 8 bytes for a stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import constriction
import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Numbers = NDArray[np.int16]
Bytes = NDArray[np.uint8]

PRECISION = 24
TOTAL = 1 << PRECISION
WORD = np.dtype("<u4")
MOST_MAGNITUDE = 32767
MAGNITUDES_MARKED = np.array([*range(8), *(m << octave for octave in range(12) for m in (8, 10, 12, 14)), 1 << 15])
# Of a mark's eight bits: those behind the leading one of its weight. The others are the weight's exponent.
MANTISSA_BITS = 3
# Binary logarithm of what the largest weight of a curve is below: the largest that fits into eight bits is 15 * 2^31.
LARGEST_WEIGHT = 35
# Numbers that are taken to have been seen at a mark where none was.
UNSEEN = 0.02


def count(numbers: Numbers, classes: Bytes) -> Integers:
    """Counts each magnitude in each class, [classes, magnitudes]; arguments as for `fit_curves`."""
    magnitudes, flat = np.abs(numbers.reshape(-1).astype(np.int32)), classes.reshape(-1)
    width = int(magnitudes.max(initial=0)) + 1
    cells = width * (int(flat.max(initial=0)) + 1)
    counted: Integers = np.bincount(flat.astype(np.int64) * width + magnitudes, minlength=cells)
    return counted.reshape(-1, width)


def fit_curves(numbers: Numbers, classes: Bytes) -> list[Bytes]:
    """Returns the curve of each class up to the highest, [marks] each; empty for a class that does not occur.

    Args:
        numbers: int16, any shape; magnitudes up to `MOST_MAGNITUDE`.
        classes: uint8, same shape.
    """
    return [fit_curve(row) for row in count(numbers, classes)]


def fit_curve(counts: Integers) -> Bytes:
    """Marks for magnitudes that occur so often [magnitudes]: the mean frequency around each.

    The mean is weighted by the triangle that a mark's weight puts into the curve. Shares of triangles by maximum
    likelihood (expectation maximization) make streams no shorter once they are rounded to marks.
    """
    seen = np.flatnonzero(counts)
    if not seen.size:
        return np.zeros(0, np.uint8)
    length = int(seen[-1]) + 1
    marked = MAGNITUDES_MARKED[: int(np.searchsorted(MAGNITUDES_MARKED, length - 1)) + 1]
    position = np.interp(np.arange(length), marked, np.arange(len(marked)))
    left = position.astype(np.int64)
    right, part = np.minimum(left + 1, len(marked) - 1), position - left

    def gathered(values: Integers) -> Doubles:
        """For each mark the sum of these values at magnitudes, weighted by its triangle."""
        sums: Doubles = np.bincount(left, (1 - part) * values, len(marked)).astype(np.float64)
        sums += np.bincount(right, part * values, len(marked))
        return sums

    # Both signs of a magnitude have one weight.
    signs = np.minimum(np.arange(length), 1) + 1
    weights = (gathered(counts[:length]) + UNSEEN) / gathered(signs)
    # x = m 2^e with 1/2 <= m < 1; where 16 m rounds to 16, the sum below carries into the exponent, as it must.
    mantissas, exponents = np.frexp(weights * (2.0**LARGEST_WEIGHT * (1 - 2.0**-5) / weights.max()))
    whole = np.rint(mantissas * (2 << MANTISSA_BITS)).astype(np.int64) - (1 << MANTISSA_BITS)
    marks = (exponents.astype(np.int64) - MANTISSA_BITS - 1 << MANTISSA_BITS) + whole
    curve: Bytes = np.clip(marks, 0, 255).astype(np.uint8)
    return curve


def table_of(curve: Bytes) -> Integers:
    """Returns the shares f [magnitudes] of a curve: at least 1 each, what is left by rounding down goes to 0.

    The mark 8 e + m stands for the weight (8 + m) 2^e.
    """
    if not curve.size:
        return np.zeros(0, np.int64)
    mantissa = (1 << MANTISSA_BITS) + (curve & (1 << MANTISSA_BITS) - 1).astype(np.int64)
    weights = np.append(mantissa << (curve >> MANTISSA_BITS).astype(np.int64), 0)
    marked = np.append(MAGNITUDES_MARKED[: len(curve)], MOST_MAGNITUDE + 2)
    magnitudes = np.arange(min(int(marked[len(curve) - 1]), MOST_MAGNITUDE) + 1)
    left = np.searchsorted(marked, magnitudes, side="right") - 1
    begin, end = marked[left], marked[left + 1]
    between = (weights[left] * (end - magnitudes) + weights[left + 1] * (magnitudes - begin)) // (end - begin)
    room = TOTAL - 2 * len(magnitudes)
    table: Integers = 1 + between * room // (2 * int(between.sum()) - int(between[0]))
    table[0] = TOTAL - 2 * int(table[1:].sum())
    return table


def curves_to_bytes(curves: Sequence[Bytes]) -> Bytes:
    """For each class the number of its marks, and then their differences, the first from 0, modulo 256."""
    found = [bytes([len(curve)]) + np.diff(curve, prepend=np.uint8(0)).tobytes() for curve in curves]
    return np.frombuffer(b"".join(found), np.uint8)


def curves_from_bytes(data: Bytes) -> list[Bytes]:
    """Returns the inverse of `curves_to_bytes`.

    Raises:
        ValueError: they are no such curves.
    """
    curves, begin = [], 0
    while begin < len(data):
        end = begin + 1 + int(data[begin])
        if end - begin - 1 > len(MAGNITUDES_MARKED) or end > len(data):
            raise ValueError("a curve of the codebook has too many marks or is cut off")
        curves.append(np.cumsum(data[begin + 1 : end], dtype=np.uint8))
        begin = end
    return curves


def encode(numbers: Numbers, classes: Bytes, curves: Sequence[Bytes]) -> Bytes:
    """Returns the stream [bytes] of numbers, all within the curves of their classes; arguments as for `fit_curves`."""
    coder = constriction.stream.stack.AnsCoder()
    flat = numbers.reshape(-1)
    for table, where in reversed(list(_by_class(classes, curves))):
        coder.encode_reverse(flat[where].astype(np.int32) + np.int32(len(table) - 1), _model(table))
    return np.asarray(coder.get_compressed()).astype(WORD).view(np.uint8)


def decode(stream: Bytes, classes: Bytes, curves: Sequence[Bytes]) -> Numbers:
    """Returns the numbers of a stream, int16 in the shape of `classes`.

    Raises:
        ValueError: the stream is not one of these classes and curves.
    """
    words = stream.view(WORD).astype(np.uint32) if stream.size % WORD.itemsize == 0 else None
    if words is None or (words.size and words[-1] == 0):
        raise ValueError("a stream of numbers is cut off")
    coder = constriction.stream.stack.AnsCoder(words)
    numbers = np.zeros(classes.size, np.int16)
    for table, where in _by_class(classes, curves):
        numbers[where] = np.asarray(coder.decode(_model(table), len(where))) - (len(table) - 1)
    if not coder.is_empty():
        raise ValueError("a stream of numbers does not end where its last number does")
    return numbers.reshape(classes.shape)


def _by_class(classes: Bytes, curves: Sequence[Bytes]) -> Iterator[tuple[Integers, Integers]]:
    """Each class whose numbers are coded: its table and where they are. A table of 0 alone leaves nothing to code."""
    flat = classes.reshape(-1)
    occurring = np.flatnonzero(np.bincount(flat))
    if any(index >= len(curves) or not len(curves[index]) for index in occurring.tolist()):
        raise ValueError("a number has a class without a curve")
    for index in occurring.tolist():
        if len(curves[index]) > 1:
            yield table_of(curves[index]), np.flatnonzero(flat == index)


def _model(table: Integers) -> object:
    """Returns the table as the library takes it, over the numbers from the most negative to the most positive.

    From weights that add up to 2^24 - n, n numbers, the library gives number i the share 1 + weight i: what it computes
    in floats are sums of whole numbers below 2^24 and a division of equals.
    """
    shares = np.concatenate([table[:0:-1], table])
    return constriction.stream.model.Categorical((shares - 1).astype(np.float32), perfect=False)
