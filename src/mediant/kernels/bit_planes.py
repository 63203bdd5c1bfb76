"""Bit planes: whole numbers of b bits, stored one bit of all numbers after another.

Plane 0 holds the most significant bits. A plane of n numbers is ceil(n/8) bytes; number i has bit i mod 8, counted
from the least significant, of byte i div 8. Unused bits of a plane's last byte are 0. So the first k planes are by
themselves the packing of the numbers' k leading bits: `unpack(data, n, k)` reads them alone.

Cost: each number is touched once per bit. The native twin works on eight numbers at a time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import native, threads

Bytes = NDArray[np.uint8]

# Below this many numbers a thread costs more than it saves.
_NUMBERS_PER_THREAD = 1 << 17


def packed_bytes(count: int, bits: int) -> int:
    """Returns the bytes that `count` numbers of `bits` bits take."""
    return bits * -(-count // 8)


def pack(codes: Bytes, bits: int) -> Bytes:
    """Packs numbers below 2^bits.

    Args:
        codes: uint8, any shape, taken in row-major order.
        bits: 1 to 8.

    Returns:
        uint8, [packed_bytes(codes.size, bits)].

    Raises:
        ValueError: bits out of range, or a number that does not fit.

    >>> pack(np.array([1, 2, 3], np.uint8), 2).tolist()
    [6, 5]
    """
    _check_bits(bits)
    flat = np.ascontiguousarray(codes, dtype=np.uint8).reshape(-1)
    if flat.size and int(flat.max()) >> bits:
        raise ValueError(f"the number {int(flat.max())} does not fit in {bits} bits")
    if native is None:
        return pack_reference(flat, bits)
    packed = np.empty(packed_bytes(flat.size, bits), np.uint8)
    native.pack_bit_planes(flat, bits, packed, _threads(flat.size))
    return packed


def unpack(data: Bytes, count: int, bits: int) -> Bytes:
    """Returns the inverse of `pack`: `count` numbers from the first `bits` planes of `data`.

    Args:
        data: uint8, 1-D, at least packed_bytes(count, bits) long; what follows is not read.
        count: number of numbers.
        bits: 1 to 8.

    Returns:
        uint8, [count].

    Raises:
        ValueError: bits out of range, or too few bytes.

    >>> unpack(np.array([6, 5], np.uint8), 3, 2).tolist()
    [1, 2, 3]
    """
    _check_bits(bits)
    if data.size < packed_bytes(count, bits):
        raise ValueError(f"{count} numbers of {bits} bits take {packed_bytes(count, bits)} bytes, not {data.size}")
    if native is None:
        return unpack_reference(data, count, bits)
    codes = np.empty(count, np.uint8)
    native.unpack_bit_planes(np.ascontiguousarray(data), bits, codes, _threads(count))
    return codes


def pack_reference(codes: Bytes, bits: int) -> Bytes:
    """`pack` in NumPy, for checked 1-D `codes`."""
    planes = [np.packbits(codes >> b & 1, bitorder="little") for b in reversed(range(bits))]
    return np.concatenate(planes)


def unpack_reference(data: Bytes, count: int, bits: int) -> Bytes:
    """`unpack` in NumPy, for checked arguments."""
    planes = data[: packed_bytes(count, bits)].reshape(bits, -1)
    codes = np.zeros(count, np.uint8)
    for plane in planes:
        codes <<= 1
        codes |= np.unpackbits(plane, count=count, bitorder="little")
    return codes


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"numbers take 1 to 8 bits, not {bits}")


def _threads(count: int) -> int:
    return min(threads(), 1 + count // _NUMBERS_PER_THREAD)
