"""Codes in tiles: round trips, the place of single codes, prefixes, and sizes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mediant.kernels.tiles import (
    BLOCK,
    PANEL,
    STORAGES,
    WIDTHS,
    pack_scale_codes,
    pack_tiles,
    panels,
    scale_code_bytes,
    tile_bytes,
    unpack_scale_codes,
    unpack_tiles,
)
from mediant.values import RowSpan

SHAPES = [(1, 1), (7, 31), (8, 32), (9, 33), (16, 64), (21, 70), (3, 200)]
BIT_WIDTHS = list(itertools.product(STORAGES, range(1, 9)))


def random_codes(shape: tuple[int, int], bits: int) -> np.ndarray:
    return np.random.default_rng(bits).integers(0, 1 << bits, shape).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("storage", "bits"), BIT_WIDTHS)
def test_round_trip_and_size(shape, storage, bits):
    codes = random_codes(shape, bits)
    packed = pack_tiles(codes, bits, storage)
    assert packed.size == tile_bytes([RowSpan(shape[0], bits)], shape[1])
    assert np.array_equal(unpack_tiles(packed, *shape, WIDTHS[storage][bits]), codes)


def test_widths_add_up_and_nested_ones_are_prefixes():
    for storage, bits in BIT_WIDTHS:
        assert sum(WIDTHS[storage][bits]) == bits
    for bits in (2, 3, 4):
        assert WIDTHS["nested"][bits][: len(WIDTHS["nested"][bits - 1])] == WIDTHS["nested"][bits - 1] or bits == 2


@pytest.mark.parametrize("bits", [3, 4, 5, 8])
def test_the_first_regions_are_the_tiles_of_the_leading_bits(bits):
    codes = random_codes((11, 40), bits)
    packed = pack_tiles(codes, bits, "nested")
    for kept in (2, 3):
        first = pack_tiles(codes >> (bits - kept), kept, "nested")
        assert np.array_equal(packed[: first.size], first)


@pytest.mark.parametrize(("storage", "bits"), BIT_WIDTHS)
def test_one_code_touches_its_byte_lane_alone(storage, bits):
    for row, column in ((0, 0), (5, 9), (7, 31), (8, 32)):
        codes = np.zeros((9, 33), np.uint8)
        codes[row, column] = (1 << bits) - 1
        packed = pack_tiles(codes, bits, storage)
        lanes = np.flatnonzero(packed) % 32
        assert set(lanes.tolist()) == {4 * (row % PANEL) + column % 4}
        assert int(np.unpackbits(packed).sum()) == bits


@pytest.mark.parametrize("bits", range(2, 9))
def test_scale_codes(bits):
    runs = (RowSpan(9, 3), RowSpan(8, 4), RowSpan(3, 2))
    codes = random_codes((20, 5), bits)
    packed = pack_scale_codes(codes, runs, bits)
    assert packed.size == scale_code_bytes(runs, 5, bits) == sum(panels(r.rows) for r in runs) * 5 * bits + 1
    assert packed[-1] == 0
    assert np.array_equal(unpack_scale_codes(packed, runs, 5, bits), codes)
    # Row 8, the second panel's first, has the lowest bits of that panel's bytes.
    assert packed[5 * bits] & ((1 << min(bits, 8)) - 1) == codes[8, 0]


def test_blocks_are_whole_vectors():
    assert BLOCK == PANEL * 4
