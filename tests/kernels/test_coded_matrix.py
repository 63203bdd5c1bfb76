"""What is stored of a coded matrix comes back, and what cannot be one is refused."""

from __future__ import annotations

import numpy as np
import pytest

from mediant.kernels.coded_matrix import COLUMN_FACTORS, CodedMatrix


@pytest.fixture
def coded():
    generator = np.random.default_rng(3)
    rows, columns = 13, 21
    numbers = np.rint(3 * generator.standard_normal((rows, columns))).astype(np.int16)
    row_scales = np.float32(2.0) ** generator.integers(-9, 9, rows).astype(np.float32)
    scales = generator.integers(0, 255, columns).astype(np.uint8)
    classes = [generator.integers(0, 16, n).astype(np.uint8) for n in (rows, columns)]
    return CodedMatrix(numbers, row_scales, scales, *classes)


def test_it_comes_back(coded):
    again = CodedMatrix.from_parts(coded.parts(), 21)
    for name, value in vars(coded).items():
        np.testing.assert_array_equal(getattr(again, name), value)


def test_weights_are_two_float32_products(coded):
    i, j = 4, 7
    step = np.float32(coded.row_scales[i] * COLUMN_FACTORS[coded.column_scales[j]])
    assert coded.matrix()[i, j] == np.float32(step * np.float32(coded.numbers[i, j]))


def test_column_factors_are_eighths_of_octaves():
    assert len(COLUMN_FACTORS) == 255
    np.testing.assert_allclose(COLUMN_FACTORS, 2.0 ** (-np.arange(255) / 8), rtol=2**-24)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("codebook", lambda a: a[:20], "cut off"),
        ("codebook", lambda a: a[: 21 + 8 + 12], "without a table"),
        ("codebook", lambda a: np.concatenate([np.uint8([255]), a[1:]]), "no scale"),
        ("codes", lambda a: a[:-4], "stream"),
        ("codes", lambda a: a[:-1], "stream"),
    ],
)
def test_damage_is_refused(coded, part, change, message):
    parts = coded.parts()
    with pytest.raises(ValueError, match=message):
        CodedMatrix.from_parts(parts | {part: change(parts[part])}, 21)
