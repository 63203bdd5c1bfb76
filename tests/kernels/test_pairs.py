"""Columns in pairs: the order is a permutation, codes split and join, and tiles keep a pair in one half byte."""

from __future__ import annotations

import numpy as np
import pytest

from mediant.kernels.pairs import PAIRS, SINGLES, join, pair_order, paired_columns, split
from mediant.kernels.tiles import pack_tiles


def some_codes(rows: int, columns: int) -> np.ndarray:
    generator = np.random.default_rng(columns)
    codes = generator.integers(0, SINGLES, (rows, columns)).astype(np.uint8)
    order = pair_order(columns)
    first, second = order[: paired_columns(columns)].reshape(-1, 2).T
    codes[:, first] = generator.integers(0, PAIRS, (rows, len(first)))
    codes[:, second] = codes[:, first] + PAIRS
    return codes


@pytest.mark.parametrize("columns", range(35))
def test_partners_are_four_apart_and_everyone_comes_once(columns):
    order = pair_order(columns)
    assert sorted(order.tolist()) == list(range(columns))
    first, second = order[: paired_columns(columns)].reshape(-1, 2).T
    np.testing.assert_array_equal(second, first + 4)
    np.testing.assert_array_equal(first // 8, second // 8)
    singles = order[paired_columns(columns) :]
    assert all(j % 8 < 4 and j + 4 >= columns for j in singles)


@pytest.mark.parametrize("columns", [1, 4, 5, 8, 14, 32, 40])
def test_split_and_join_undo_each_other(columns):
    codes = some_codes(3, columns)
    digits = split(codes)
    assert digits.max() < 4
    np.testing.assert_array_equal(join(digits), codes)


def test_a_half_byte_of_tiles_is_the_index_of_a_pair():
    codes = some_codes(8, 32)
    tiles = pack_tiles(split(codes), 2, "tiles").reshape(2, 8, 4)  # vector, row, column of a quad
    for vector, half, row, column in np.ndindex(2, 2, 8, 4):
        first = 16 * vector + 8 * half + column
        assert tiles[vector, row, column] >> 4 * half & 15 == codes[row, first]
