"""Scales in few bits: range, precision, zeros and signs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.kernels.scale_codes import STEPS_PER_OCTAVE, decode_scales, encode_scales


def around(scale, bits):
    return decode_scales(encode_scales(scale, bits), bits)


@given(st.integers(3, 8), st.integers(0, 2**32 - 1))
def test_within_half_a_step_inside_the_range(bits, seed):
    octaves = (2 ** (bits - 1) - 2) / STEPS_PER_OCTAVE
    generator = np.random.default_rng(seed)
    # The row scale is at most 2^-7 above the largest scale: one rounding up to bfloat16 after a step of 2^-8.
    magnitudes = 2.0 ** -generator.uniform(0, max(0.0, octaves - 0.02), (5, 7))
    scale = (magnitudes * generator.choice([-1, 1], (5, 7))).astype(np.float32)
    decoded = around(scale, bits)
    assert (np.sign(decoded) == np.sign(scale)).all()
    half_step = 0.5 / STEPS_PER_OCTAVE
    slack = np.log2(1 + 2**-7)  # where k would be negative, the row scale itself is taken
    assert np.abs(np.log2(np.abs(decoded) / np.abs(scale))).max() <= max(half_step, slack) + 1e-6


def test_zero_stays_zero_and_the_tiny_take_the_smallest():
    scale = np.float32([[1.0, 0.0, -0.0, 1e-30]])
    decoded = around(scale, 6)
    assert decoded[0, 1] == 0
    assert decoded[0, 2] == 0
    assert 0 < decoded[0, 3] < 0.1


def test_a_row_of_zeros():
    assert not around(np.zeros((2, 3), np.float32), 6).any()


def test_full_scales_are_bfloat16():
    scale = np.float32([[1.0, -3.5, 0.0, 1e-30]])
    decoded = around(scale, 16)
    assert np.abs(decoded - scale).max() <= np.abs(scale).max() * 2**-8


def test_decoding_is_idempotent():
    scale = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
    once = encode_scales(scale, 6)
    again = encode_scales(decode_scales(once, 6), 6)
    half_step = 2 ** (0.5 / STEPS_PER_OCTAVE)
    ratio = np.abs(decode_scales(again, 6) / decode_scales(once, 6))
    assert (ratio <= half_step).all()
    assert (ratio >= 1 / half_step).all()


@pytest.mark.parametrize("bits", [0, 1, 2, 9, 15, 17])
def test_other_depths_are_refused(bits):
    with pytest.raises(ValueError, match="3 to 8"):
        encode_scales(np.ones((1, 1), np.float32), bits)
