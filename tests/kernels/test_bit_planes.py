from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.kernels import bit_planes, native
from mediant.kernels.bit_planes import pack, pack_reference, packed_bytes, unpack, unpack_reference

LENGTHS = range(71)
BIT_WIDTHS = range(1, 9)


def by_definition(codes: list[int], bits: int) -> bytes:
    """The packing bit by bit, from the words of FORMAT.md."""
    plane = -(-len(codes) // 8)
    packed = bytearray(bits * plane)
    for p in range(bits):
        for i, code in enumerate(codes):
            packed[p * plane + i // 8] |= (code >> (bits - 1 - p) & 1) << (i % 8)
    return bytes(packed)


@pytest.mark.parametrize("bits", BIT_WIDTHS)
@pytest.mark.parametrize("path", ["dispatched", "reference"])
def test_every_length_packs_as_defined_and_unpacks_again(bits: int, path: str) -> None:
    encode, read = (pack, unpack) if path == "dispatched" else (pack_reference, unpack_reference)
    generator = np.random.default_rng(bits)
    for length in LENGTHS:
        codes = generator.integers(1 << bits, size=length).astype(np.uint8)
        packed = encode(codes, bits)
        assert packed.tobytes() == by_definition(codes.tolist(), bits)
        assert packed.size == packed_bytes(length, bits)
        np.testing.assert_array_equal(read(packed, length, bits), codes)


@pytest.mark.parametrize("bits", BIT_WIDTHS)
def test_every_number_in_every_place(bits: int) -> None:
    for place in range(9):
        for number in range(1 << bits):
            codes = np.zeros(9, np.uint8)
            codes[place] = number
            np.testing.assert_array_equal(unpack(pack(codes, bits), 9, bits), codes)


@pytest.mark.parametrize("bits", BIT_WIDTHS)
def test_a_flipped_bit_changes_one_number_by_its_place_value(bits: int) -> None:
    codes = np.random.default_rng(1).integers(1 << bits, size=16).astype(np.uint8)
    packed = pack(codes, bits)
    for position in range(8 * packed.size):
        damaged = packed.copy()
        damaged[position // 8] ^= 1 << (position % 8)
        changed = unpack(damaged, 16, bits) ^ codes
        expected = np.zeros(16, np.uint8)
        expected[position % 16] = 1 << (bits - 1 - position // 16)
        np.testing.assert_array_equal(changed, expected)


@given(st.integers(1, 8), st.lists(st.integers(0, 255), max_size=300))
def test_leading_planes_are_the_packing_of_leading_bits(bits: int, numbers: list[int]) -> None:
    codes = np.array(numbers, np.uint8) >> (8 - bits)
    packed = pack(codes, bits)
    for kept in range(1, bits + 1):
        np.testing.assert_array_equal(unpack(packed, codes.size, kept), codes >> (bits - kept))
        np.testing.assert_array_equal(packed[: packed_bytes(codes.size, kept)], pack(codes >> (bits - kept), kept))


def test_what_follows_the_planes_is_not_read() -> None:
    codes = np.array([5, 0, 7], np.uint8)
    tail = np.array([255, 255], np.uint8)
    np.testing.assert_array_equal(unpack(np.concatenate([pack(codes, 3), tail]), 3, 3), codes)


def test_strided_and_shaped_arrays_are_taken_row_by_row() -> None:
    matrix = np.arange(48, dtype=np.uint8).reshape(6, 8)
    np.testing.assert_array_equal(pack(matrix[::2, ::3], 6), pack(matrix[::2, ::3].ravel().copy(), 6))
    packed = np.repeat(pack(matrix, 6), 2)
    np.testing.assert_array_equal(unpack(packed[::2], 48, 6), matrix.ravel())


@pytest.mark.skipif(native is None, reason="the native kernels were not built")
def test_threads_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(2).integers(32, size=5 * bit_planes._NUMBERS_PER_THREAD + 3).astype(np.uint8)
    for count in ("1", "3", "8"):
        monkeypatch.setenv("MEDIANT_THREADS", count)
        packed = pack(codes, 5)
        np.testing.assert_array_equal(packed, pack_reference(codes, 5))
        np.testing.assert_array_equal(unpack(packed, codes.size, 5), codes)


@pytest.mark.parametrize("bits", [-1, 0, 9, 16])
def test_other_bit_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="1 to 8 bits"):
        pack(np.zeros(3, np.uint8), bits)
    with pytest.raises(ValueError, match="1 to 8 bits"):
        unpack(np.zeros(64, np.uint8), 3, bits)


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="8 does not fit in 3 bits"):
        pack(np.array([1, 8], np.uint8), 3)


@pytest.mark.parametrize("bits", BIT_WIDTHS)
def test_too_few_bytes_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"take {2 * bits} bytes, not {2 * bits - 1}"):
        unpack(np.zeros(2 * bits - 1, np.uint8), 9, bits)
