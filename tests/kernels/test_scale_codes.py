"""Scales in few bits: range, precision, zeros and signs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.kernels.scale_codes import ScaleForm, decode_scales, encode_scales


def around(scale, form):
    return decode_scales(encode_scales(scale, form), form)


@given(st.integers(3, 8), st.integers(1, 64), st.booleans(), st.integers(0, 2**32 - 1))
def test_within_half_a_step_inside_the_range(bits, steps, signed, seed):
    form = ScaleForm(bits, signed, steps)
    octaves = min(60.0, (2**form.magnitude_bits - 2) / steps)  # beyond that, float32 ends
    generator = np.random.default_rng(seed)
    # The row scale is at most 2^-7 above the largest scale: one rounding up to bfloat16 after a step of 2^-8.
    magnitudes = 2.0 ** -generator.uniform(0, max(0.0, octaves - 0.02), (5, 7))
    scale = (magnitudes * generator.choice([-1, 1] if signed else [1], (5, 7))).astype(np.float32)
    decoded = around(scale, form)
    assert (np.sign(decoded) == np.sign(scale)).all()
    half_step = 0.5 / steps
    slack = np.log2(1 + 2**-7)  # where k would be negative, the row scale itself is taken
    assert np.abs(np.log2(np.abs(decoded) / np.abs(scale))).max() <= max(half_step, slack) + 1e-6


def test_zero_stays_zero_and_the_tiny_take_the_smallest():
    scale = np.float32([[1.0, 0.0, -0.0, 1e-30]])
    decoded = around(scale, ScaleForm(6))
    assert decoded[0, 1] == 0
    assert decoded[0, 2] == 0
    assert 0 < decoded[0, 3] < 0.1


def test_a_row_of_zeros():
    assert not around(np.zeros((2, 3), np.float32), ScaleForm(6)).any()


def test_full_scales_are_bfloat16():
    scale = np.float32([[1.0, -3.5, 0.0, 1e-30]])
    decoded = around(scale, ScaleForm(16))
    assert np.abs(decoded - scale).max() <= np.abs(scale).max() * 2**-8


def test_without_a_sign_the_magnitude_stays():
    scale = np.float32([[1.0, -0.5]])
    assert (around(scale, ScaleForm(5, signed=False)) > 0).all()
    assert (np.sign(around(scale, ScaleForm(5))) == [[1, -1]]).all()


def test_decoding_is_idempotent():
    form = ScaleForm(6)
    scale = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
    once = around(scale, form)
    ratio = np.abs(around(once, form) / once)
    half_step = 2 ** (0.5 / form.steps)
    assert (ratio <= half_step).all()
    assert (ratio >= 1 / half_step).all()


@pytest.mark.parametrize(
    ("bits", "signed", "steps"),
    [(2, True, 8), (1, False, 8), (9, True, 8), (15, True, 8), (17, True, 8), (6, True, 0), (6, True, 65)],
)
def test_other_forms_are_refused(bits, signed, steps):
    with pytest.raises(ValueError, match="scales take"):
        ScaleForm(bits, signed, steps)
