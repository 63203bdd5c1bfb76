"""What is stored of a coded matrix comes back, and what cannot be one is refused."""

from __future__ import annotations

import dataclasses
import lzma

import numpy as np
import pytest

from mediant.forms.entropy_coded.coded_matrix import COLUMN_FACTORS, LZMA_FILTERS, CodedMatrix, SideInformation, scaled
from mediant.forms.entropy_coded.entropy_codes import fit_curves

ROWS, COLUMNS = 13, 21


@pytest.fixture
def coded():
    generator = np.random.default_rng(3)
    numbers = np.rint(3 * generator.standard_normal((ROWS, COLUMNS))).astype(np.int16)
    row_scales = np.float32(2.0) ** generator.integers(-9, 9, ROWS).astype(np.float32)
    scales = generator.integers(0, 255, COLUMNS).astype(np.uint8)
    classes = [generator.integers(0, 32, n).astype(np.uint8) for n in (ROWS, COLUMNS)]
    book = SideInformation(row_scales, scales, *classes)
    return CodedMatrix(numbers, dataclasses.replace(book, curves=tuple(fit_curves(numbers, book.classes))))


def test_it_comes_back(coded):
    again = CodedMatrix.from_parts(coded.parts(), COLUMNS)
    np.testing.assert_array_equal(again.numbers, coded.numbers)
    for name in ("row_scales", "column_scales", "row_classes", "column_classes"):
        np.testing.assert_array_equal(getattr(again.side, name), getattr(coded.side, name))
    assert [c.tolist() for c in again.side.curves] == [c.tolist() for c in coded.side.curves]


def test_weights_are_two_float32_products(coded):
    i, j = 4, 7
    step = np.float32(coded.side.row_scales[i] * COLUMN_FACTORS[coded.side.column_scales[j]])
    assert coded.matrix()[i, j] == np.float32(step * np.float32(coded.numbers[i, j]))


def test_column_factors_are_eighths_of_octaves():
    assert len(COLUMN_FACTORS) == 255
    np.testing.assert_allclose(COLUMN_FACTORS, 2.0 ** (-np.arange(255) / 8), rtol=2**-24)


def compressed(data):
    return np.frombuffer(lzma.compress(bytes(data), lzma.FORMAT_RAW, filters=LZMA_FILTERS), np.uint8)


def changed(data, at, value):
    """The codebook with one byte of what is compressed replaced."""
    plain = bytearray(lzma.decompress(data.tobytes(), lzma.FORMAT_RAW, filters=LZMA_FILTERS))
    plain[at] = value
    return compressed(plain)


def shortened(data, size):
    return compressed(lzma.decompress(data.tobytes(), lzma.FORMAT_RAW, filters=LZMA_FILTERS)[:size])


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("codebook", lambda a: a[:-1], "cut off"),
        ("codebook", lambda a: a[:0], "cut off"),
        ("codebook", lambda a: np.append(a, np.uint8(0)), "too long"),
        ("codebook", lambda a: np.full(99, 77, np.uint8), "damaged"),
        ("codebook", lambda a: shortened(a, 2 * (ROWS + COLUMNS) - 1), "cut off"),
        ("codebook", lambda a: shortened(a, 2 * (ROWS + COLUMNS)), "without a curve"),
        ("codebook", lambda a: compressed(10**7), "too long"),
        ("row_scales", lambda a: np.full(ROWS, 255, np.uint8), "not finite"),
        ("codebook", lambda a: changed(a, ROWS, 255), "no scale"),
        ("codebook", lambda a: changed(a, ROWS + COLUMNS, 32), "no class"),
        ("codebook", lambda a: changed(a, 2 * ROWS + COLUMNS, 32), "no class"),
        ("codes", lambda a: a[:-4], "stream"),
        ("codes", lambda a: a[:-1], "stream"),
    ],
)
def test_damage_is_refused(coded, part, change, message):
    coded.side.row_scales[0] = np.float32(1.75 * 2**127)  # Its higher byte is that of infinity.
    parts = coded.parts()
    with pytest.raises(ValueError, match=message):
        CodedMatrix.from_parts(parts | {part: change(parts[part])}, COLUMNS)


def test_scales_are_tuned_within_their_higher_bytes(coded):
    """So the codebook stays as long as it was. From 1/2 to less than 2 there is one, of either sign."""
    row_scales = np.float32([1.0, 1.0, 1.0, -1.0, 2.0])
    found = scaled(row_scales, np.float32([1.5, 0.25, 3.0, 4.0, 1 + 2**-9]))
    np.testing.assert_array_equal(found, np.float32([1.5, 0.5, 2 - 2**-7, -2 + 2**-7, 2.0]))
    gains = np.float32(2) ** np.random.default_rng(1).normal(0, 1, ROWS).astype(np.float32)
    book = dataclasses.replace(coded.side, row_scales=scaled(coded.side.row_scales, gains))
    np.testing.assert_array_equal(book.parts()["codebook"], coded.side.parts()["codebook"])
    assert (book.row_scales != coded.side.row_scales).any()


def test_a_codebook_takes_about_half_a_byte_for_a_row_and_a_column():
    generator = np.random.default_rng(5)
    spread = np.float32(2.0) ** generator.normal(0, 0.3, 1536).astype(np.float32)
    scales = np.rint(np.abs(generator.normal(0, 8, 576))).astype(np.uint8)
    classes = [np.rint(12 + 2 * generator.standard_normal(n)).astype(np.uint8) for n in (1536, 576)]
    assert 0.25 < SideInformation(spread, scales, *classes).parts()["codebook"].size / (1536 + 576) < 1
