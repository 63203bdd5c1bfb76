"""Nearest codes against exact distances, ties, and the native search against the reference."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mediant.kernels import native
from mediant.kernels import nearest_code as module
from mediant.kernels.nearest_code import nearest_code, nearest_code_reference

TABLES = [
    np.array([0.5]), np.array([-1.0, 1]), np.array([-1.0, 0, 1]), np.arange(-4.0, 4), np.arange(-3.5, 4),
    np.array([-0.7, -0.1, 0.3, 0.35, 2]), np.arange(256.0), 2.0 ** np.arange(-60, 1), np.arange(-5.0, 96),
]  # fmt: skip
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
needs_native = pytest.mark.skipif(native is None, reason="the native kernels were not built")


@given(
    st.integers(-(2**20), 2**20), st.integers(-5, 5), st.sampled_from([-3, -1, 1, 4, 8]),
    st.integers(0, 7), st.sampled_from(TABLES[:5]),
)  # fmt: skip
def test_the_nearest_level_and_the_lower_of_two(numerator, exponent, s, zero, levels):
    # Small fractions: w/s + z and the middles of these tables are exact or far apart, so fractions decide as we do.
    w = np.float32(numerator * 2.0 ** (exponent - 15))
    code = nearest_code(w[None, None], np.float32([s]), np.float32([zero]), levels)[0, 0]
    x = Fraction(float(w)) / s + zero
    distances = [abs(x - Fraction(float(level))) for level in levels]
    assert distances[code] == min(distances)
    assert code == distances.index(min(distances))


def test_a_negative_scale_mirrors_the_weights():
    w = np.random.default_rng(0).standard_normal((5, 40), np.float32)
    one, zero = np.ones(5, np.float32), np.zeros(5, np.float32)
    for levels in TABLES:
        np.testing.assert_array_equal(nearest_code(w, -one, zero, levels), nearest_code(-w, one, zero, levels))


def test_scale_zero_takes_the_level_nearest_the_zero():
    w = np.float32([[1e30, -5, 0]] * 3)
    codes = nearest_code(w, np.zeros(3, np.float32), np.float32([0, 2, -9]), np.arange(-4.0, 4))
    assert codes.tolist() == [[4] * 3, [6] * 3, [0] * 3]


def assert_native_equals_reference(w, scale, zero, levels):
    expected = nearest_code_reference(w, scale, zero, levels)
    for threads in (1, 3):
        codes = np.full(w.shape, 255, np.uint8)
        native.nearest_code(w, scale, zero, (levels[:-1] + levels[1:]) / 2, codes, threads)
        np.testing.assert_array_equal(codes, expected)


@needs_native
@pytest.mark.parametrize("levels", TABLES, ids=len)
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 1), (3, 1), (5, 63), (2, 1001)])
def test_native_equals_reference(levels, shape):
    generator = np.random.default_rng(shape[1])
    w = generator.standard_t(2, shape).astype(np.float32)
    scale = generator.choice(np.float32([-0.3, 0, 0.1, 0.5, 1]), shape[0])
    zero = generator.integers(0, 8, shape[0]).astype(np.float32)
    assert_native_equals_reference(w, scale, zero, levels)


@needs_native
@settings(max_examples=200)
@given(
    arrays(np.float32, (2, 7), elements=finite),
    arrays(np.float32, 2, elements=finite),
    arrays(np.float32, 2, elements=finite),
    st.sampled_from(TABLES),
)
def test_native_equals_reference_on_any_floats(w, scale, zero, levels):
    assert_native_equals_reference(w, scale, zero, levels)


def test_without_native_kernels_the_result_is_the_same(monkeypatch):
    w = np.random.default_rng(0).standard_normal((9, 33)).astype(np.float32)
    arguments = w, np.full(9, 0.3, np.float32), np.zeros(9, np.float32), TABLES[3]
    expected = nearest_code(*arguments)
    monkeypatch.setattr(module, "native", None)
    np.testing.assert_array_equal(nearest_code(*arguments), expected)


@pytest.mark.parametrize("levels", [np.zeros(0), np.arange(257.0)])
def test_too_many_levels_or_none_are_refused(levels):
    with pytest.raises(ValueError, match="1 to 256"):
        nearest_code(np.zeros((1, 1), np.float32), np.ones(1, np.float32), np.zeros(1, np.float32), levels)


@pytest.mark.parametrize(("scales", "zeros"), [(1, 2), (2, 1), (3, 2)])
def test_scales_of_another_shape_are_refused(scales, zeros):
    with pytest.raises(ValueError, match="scales and zeros"):
        nearest_code(np.zeros((2, 3), np.float32), np.ones(scales, np.float32), np.zeros(zeros, np.float32), TABLES[1])
