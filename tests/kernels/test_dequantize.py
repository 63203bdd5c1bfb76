from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.kernels import dequantize as module
from mediant.kernels import native
from mediant.kernels.dequantize import dequantize, dequantize_reference


class Case(NamedTuple):
    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None
    levels: np.ndarray
    group: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rows, columns, group = draw(st.integers(0, 6)), draw(st.integers(1, 40)), draw(st.integers(1, 50))
    generator = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    count = draw(st.integers(1, 256))
    groups = -(-columns // group)
    zero = generator.integers(256, size=(rows, groups)).astype(np.float32) if draw(st.booleans()) else None
    scale = generator.standard_normal((rows, groups)).astype(np.float32)
    levels = np.sort(generator.standard_normal(count)).astype(np.float32)
    return Case(generator.integers(count, size=(rows, columns)).astype(np.uint8), scale, zero, levels, group)


def float32(value: float) -> float:
    """Rounds a double once to float32."""
    (rounded,) = struct.unpack("<f", struct.pack("<f", value))
    return float(rounded)


def by_definition(case: Case) -> list[list[float]]:
    """One weight at a time. Float32 operands make every difference here and every product exact in a double."""

    def weight(r: int, c: int) -> float:
        g = c // case.group
        zero = 0.0 if case.zero is None else float(case.zero[r, g])
        difference = float32(float(case.levels[case.codes[r, c]]) - zero)
        return float32(float(case.scale[r, g]) * difference)

    rows, columns = case.codes.shape
    return [[weight(r, c) for c in range(columns)] for r in range(rows)]


@given(cases())
def test_every_weight_is_scale_times_level_minus_zero_each_rounded_once(case: Case) -> None:
    expected = np.array(by_definition(case), np.float32).reshape(case.codes.shape)
    np.testing.assert_array_equal(dequantize(*case), expected)
    np.testing.assert_array_equal(dequantize_reference(*case), expected)


@given(cases(), st.integers(0, 1 << 32))
def test_one_wrong_code_scale_or_zero_shows(case: Case, seed: int) -> None:
    if case.codes.size == 0 or len(case.levels) < 2:
        return
    generator = np.random.default_rng(seed)
    r, c = generator.integers(case.codes.shape[0]), generator.integers(case.codes.shape[1])
    right = dequantize(*case)
    codes, scale = case.codes.copy(), case.scale.copy()
    codes[r, c] = (int(codes[r, c]) + 1) % len(case.levels)
    scale[r, c // case.group] += 1
    zero = np.zeros_like(scale) if case.zero is None else case.zero.copy()
    zero[r, c // case.group] += 1
    for wrong in (case._replace(codes=codes), case._replace(scale=scale), case._replace(zero=zero)):
        assert dequantize(*wrong)[r, c] != right[r, c]


def test_zeros_of_nothing_and_no_zeros_are_the_same_bits() -> None:
    codes = np.array([[0, 1]], np.uint8)
    levels = np.float32([-0.0, 0.0])
    scale = np.float32([[-1]])
    with_zero = dequantize(codes, scale, np.zeros((1, 1), np.float32), levels, 2)
    np.testing.assert_array_equal(with_zero.view(np.uint32), dequantize(codes, scale, None, levels, 2).view(np.uint32))


@given(cases())
def test_a_given_array_is_filled_in_place(case: Case) -> None:
    rows, columns = case.codes.shape
    out = np.full((rows + 2, columns), np.nan, np.float32)
    dequantize(*case, out=out[1:-1])
    np.testing.assert_array_equal(out[1:-1], dequantize(*case))
    assert np.isnan(out[[0, -1]]).all()


@pytest.mark.skipif(native is None, reason="the native kernels were not built")
def test_threads_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    rows = 5 * module._WEIGHTS_PER_THREAD // 512
    codes = generator.integers(16, size=(rows, 512)).astype(np.uint8)
    scale = generator.standard_normal((rows, 8)).astype(np.float32)
    levels = np.arange(16, dtype=np.float32)
    expected = dequantize_reference(codes, scale, None, levels, 64)
    for count in ("1", "3", "8"):
        monkeypatch.setenv("MEDIANT_THREADS", count)
        np.testing.assert_array_equal(dequantize(codes, scale, None, levels, 64), expected)


def test_a_code_without_a_level_is_refused() -> None:
    with pytest.raises(ValueError, match="the code 3 is not below the number of levels, 3"):
        dequantize(np.array([[0, 3]], np.uint8), np.ones((1, 1), np.float32), None, np.float32([0, 1, 2]), 2)


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (2, 3), (4,)])
def test_scales_and_zeros_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    codes, levels = np.zeros((2, 4), np.uint8), np.zeros(2, np.float32)
    right, wrong = np.ones((2, 2), np.float32), np.ones(shape, np.float32)
    with pytest.raises(ValueError, match=r"need scales and zeros of shape \(2, 2\)"):
        dequantize(codes, wrong, None, levels, 2)
    with pytest.raises(ValueError, match=r"need scales and zeros of shape \(2, 2\)"):
        dequantize(codes, right, wrong, levels, 2)
