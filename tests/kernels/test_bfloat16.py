from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mediant.kernels.bfloat16 import from_float32, to_float32

EVERY_PATTERN = np.arange(1 << 16, dtype=np.uint16)
INFINITY = 0x7F80


def bits_to_float32(bits: np.ndarray) -> np.ndarray:
    return bits.astype(np.uint32).view(np.float32)


def test_every_pattern_is_the_upper_half_of_its_float32() -> None:
    np.testing.assert_array_equal(to_float32(EVERY_PATTERN).view(np.uint32), EVERY_PATTERN.astype(np.uint32) << 16)


def test_every_pattern_survives_the_way_there_and_back() -> None:
    np.testing.assert_array_equal(from_float32(to_float32(EVERY_PATTERN)), EVERY_PATTERN)


def test_between_any_two_neighbours_the_nearer_one_wins_and_a_tie_goes_to_the_even_one() -> None:
    for sign in (0, 0x8000):
        below = np.arange(INFINITY, dtype=np.uint32)
        middle = (below + sign << 16) + 0x8000
        even = np.where(below % 2 == 0, below, below + 1) + sign
        np.testing.assert_array_equal(from_float32(bits_to_float32(middle - 1)), below + sign)
        np.testing.assert_array_equal(from_float32(bits_to_float32(middle)), even)
        np.testing.assert_array_equal(from_float32(bits_to_float32(middle + 1)), below + sign + 1)


def test_a_nan_stays_one_wherever_its_bits_lie() -> None:
    for fraction in (1, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x400000, 0x7FFFFF):
        for sign in (0, 1 << 31):
            pattern = from_float32(bits_to_float32(np.array([0x7F800000 + fraction + sign])))
            assert np.isnan(to_float32(pattern)).all()
            assert pattern[0] >> 15 == sign >> 31


@given(st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=200))
def test_torch_agrees_on_all_but_nan(bits: list[int]) -> None:
    values = bits_to_float32(np.array(bits))
    values = values[~np.isnan(values)]
    theirs = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(from_float32(values), theirs)


def test_shapes_are_kept() -> None:
    for shape in ((), (0,), (3,), (2, 0), (2, 3, 4)):
        values = np.ones(shape, np.float32)
        assert from_float32(values).shape == shape
        assert to_float32(from_float32(values)).shape == shape
    np.testing.assert_array_equal(from_float32(np.float32([[1, 2], [3, 4]]).T), [[0x3F80, 0x4040], [0x4000, 0x4080]])
