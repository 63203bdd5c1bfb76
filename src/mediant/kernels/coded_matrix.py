"""A matrix of entropy-coded whole numbers, as it is stored: the parts `codes`, `row_scales` and `codebook`.

weight_ij = (row_scale_i * 2^(-c_j / 8)) * k_ij, two float32 products with the constants of kernels/scale_codes.py. The
codebook is, in bytes one behind another: c_j for every column; the class of every row, packed (kernels/bit_planes.py);
the class of every column, packed; the tables. The number k_ij is written by the table of the class row + column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import entropy_codes
from mediant.kernels.bfloat16 import from_float32, to_float32
from mediant.kernels.bit_planes import pack, packed_bytes, unpack
from mediant.kernels.part_shapes import CLASS_BITS
from mediant.kernels.scale_codes import ScaleForm
from mediant.values import Array

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

STEPS = 8
# 2^(-c/8) for every c; the last stands for 0 elsewhere and is not used here.
COLUMN_FACTORS = ScaleForm(8, signed=False, steps=STEPS).powers()[:-1]


@dataclass(frozen=True)
class CodedMatrix:
    """Whole numbers [rows, columns] int16 with what makes weights of them, and the classes that chose their tables.

    row_scales: float32 [rows] that are bfloat16. column_scales: c, uint8 [columns], below 255. row_classes [rows] and
    column_classes [columns]: uint8 below 16.
    """

    numbers: NDArray[np.int16]
    row_scales: Floats
    column_scales: Bytes
    row_classes: Bytes
    column_classes: Bytes

    @property
    def classes(self) -> Bytes:
        """The class of every number, uint8 [rows, columns]."""
        return self.row_classes[:, None] + self.column_classes

    def matrix(self) -> Floats:
        """The weights [rows, columns]."""
        steps = self.row_scales[:, None] * COLUMN_FACTORS[self.column_scales]
        steps *= self.numbers
        return steps

    def parts(self) -> dict[str, Array]:
        """What is stored."""
        tables = entropy_codes.fit_tables(self.numbers, self.classes)
        codebook = [
            self.column_scales,
            pack(self.row_classes, CLASS_BITS),
            pack(self.column_classes, CLASS_BITS),
            entropy_codes.tables_to_bytes(tables),
        ]
        return {
            "codes": entropy_codes.encode(self.numbers, self.classes, tables),
            "row_scales": from_float32(self.row_scales),
            "codebook": np.concatenate(codebook),
        }

    @classmethod
    def from_parts(cls, parts: Mapping[str, Array], columns: int) -> CodedMatrix:
        """The inverse of `parts`.

        Raises:
            ValueError: the codebook or the codes are not sound.
        """
        rows = parts["row_scales"].size
        sizes = [columns, packed_bytes(rows, CLASS_BITS), packed_bytes(columns, CLASS_BITS)]
        if parts["codebook"].size < sum(sizes):
            raise ValueError("the codebook is cut off")
        scales, of_rows, of_columns, tables = np.split(parts["codebook"], np.cumsum(sizes))
        if scales.size and int(scales.max()) >= len(COLUMN_FACTORS):
            raise ValueError("a column has no scale")
        row_classes = unpack(of_rows, rows, CLASS_BITS)
        column_classes = unpack(of_columns, columns, CLASS_BITS)
        numbers = entropy_codes.decode(
            parts["codes"], row_classes[:, None] + column_classes, entropy_codes.tables_from_bytes(tables)
        )
        return cls(numbers, to_float32(parts["row_scales"]), scales, row_classes, column_classes)
