"""A matrix of entropy-coded whole numbers, as it is stored: the parts `codes`, `row_scales` and `codebook`.

weight_ij = (row_scale_i * 2^(-c_j / 8)) * k_ij, two float32 products with the constants of kernels/scale_codes.py. The
number k_ij is written by the curve of the class row + column (entropy_codes.py), so rows and columns of larger
numbers have higher classes. Of a row's scale, which is bfloat16, the part `row_scales` has the lower byte. All else it
takes to read numbers is compressed, as it would be a hundredth of a small model: the codebook, a raw LZMA2 stream of
bytes one behind another, which are the higher byte of the scale of every row, c_j for every column, the class of every
row, the class of every column, and the curves. So tuning, which keeps higher bytes, changes the length of no part.
"""

from __future__ import annotations

import dataclasses
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediant.forms.entropy_coded import entropy_codes
from mediant.kernels.bfloat16 import from_float32, to_float32
from mediant.kernels.scale_codes import ScaleForm
from mediant.values import Array

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# Classes that a row or a column can have.
CLASSES = 32
STEPS = 8
# 2^(-c/8) for every c; the last stands for 0 elsewhere and is not used here.
COLUMN_FACTORS = ScaleForm(8, signed=False, steps=STEPS).powers()[:-1]
# Neighbouring bytes tell nothing of each other, so none is a context.
LZMA_FILTERS: list[dict[str, Any]] = [
    {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20, "lc": 0, "lp": 0, "pb": 0}
]
MOST_CURVES = 2 * CLASSES - 1


@dataclass(frozen=True)
class SideInformation:
    """What it takes to read the numbers of a matrix, and to make weights of them.

    row_scales: float32 [rows] that are bfloat16. column_scales: c, uint8 [columns], below 255. row_classes [rows] and
    column_classes [columns]: uint8 below `CLASSES`. curves: by class.
    """

    row_scales: Floats
    column_scales: Bytes
    row_classes: Bytes
    column_classes: Bytes
    curves: tuple[Bytes, ...] = ()

    @property
    def classes(self) -> Bytes:
        """The class of every number, uint8 [rows, columns]."""
        return self.row_classes[:, None] + self.column_classes

    def parts(self) -> dict[str, Array]:
        """Returns the side information's arrays as they are stored, by name."""
        scales = from_float32(self.row_scales)
        pieces = [
            (scales >> 8).astype(np.uint8),
            self.column_scales,
            self.row_classes,
            self.column_classes,
            entropy_codes.curves_to_bytes(self.curves),
        ]
        data = lzma.compress(np.concatenate(pieces).tobytes(), lzma.FORMAT_RAW, filters=LZMA_FILTERS)
        return {"row_scales": scales.astype(np.uint8), "codebook": np.frombuffer(data, np.uint8)}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Array], columns: int) -> SideInformation:
        """Returns the inverse of `parts`.

        Raises:
            ValueError: it is none of so many columns.
        """
        rows = parts["row_scales"].size
        sizes = [rows, columns, rows, columns]
        most = sum(sizes) + MOST_CURVES * (1 + len(entropy_codes.MAGNITUDES_MARKED))
        decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=LZMA_FILTERS)
        try:
            # A byte more than there can be would be one too many, and no bomb.
            found = np.frombuffer(decoder.decompress(parts["codebook"].tobytes(), most + 1), np.uint8)
        except lzma.LZMAError:
            raise ValueError("the codebook is damaged") from None
        if not decoder.eof or decoder.unused_data or not sum(sizes) <= found.size <= most:
            raise ValueError("the codebook is cut off, or too long")
        high, scales, of_rows, of_columns, curves = np.split(found, np.cumsum(sizes))
        if scales.size and int(scales.max()) >= len(COLUMN_FACTORS):
            raise ValueError("a column has no scale")
        if max(of_rows.max(initial=0), of_columns.max(initial=0)) >= CLASSES:
            raise ValueError("a row or a column has no class")
        row_scales = to_float32(high.astype(np.uint16) << np.uint16(8) | parts["row_scales"])
        if not np.isfinite(row_scales).all():
            raise ValueError("a row has a scale that is not finite")
        return cls(row_scales, scales, of_rows, of_columns, tuple(entropy_codes.curves_from_bytes(curves)))


def scaled(row_scales: Floats, gain: Floats) -> Floats:
    """Returns the row scales [rows] times gains [rows], as bfloat16 and as near as their higher bytes allow, which
    stay.
    """
    before, after = from_float32(row_scales), from_float32(row_scales * gain)
    least = before & np.uint16(0xFF00)
    return to_float32(np.clip(after, least, least | np.uint16(0xFF)))


@dataclass(frozen=True)
class CodedMatrix:
    """Whole numbers [rows, columns] int16, at most `entropy_codes.MOST_MAGNITUDE`, with their side information."""

    numbers: NDArray[np.int16]
    side: SideInformation

    def matrix(self) -> Floats:
        """Returns the weights [rows, columns]."""
        steps = self.side.row_scales[:, None] * COLUMN_FACTORS[self.side.column_scales]
        steps *= self.numbers
        return steps

    def parts(self) -> dict[str, Array]:
        """Arrays as they are stored. Curves are fitted to the numbers; those of `side` are not used."""
        classes = self.side.classes
        curves = entropy_codes.fit_curves(self.numbers, classes)
        return {
            "codes": entropy_codes.encode(self.numbers, classes, curves),
            **dataclasses.replace(self.side, curves=tuple(curves)).parts(),
        }

    @classmethod
    def from_parts(cls, parts: Mapping[str, Array], columns: int) -> CodedMatrix:
        """Returns the inverse of `parts`.

        Raises:
            ValueError: the codebook or the codes are not sound.
        """
        side = SideInformation.from_parts(parts, columns)
        return cls(entropy_codes.decode(parts["codes"], side.classes, side.curves), side)
