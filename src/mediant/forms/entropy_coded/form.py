"""Whole multiples of steps that follow from one number for the whole model, entropy-coded (coded_matrix.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mediant.errors import CheckpointError
from mediant.forms import Arrays, Coding, Floats, Form, Words
from mediant.forms.entropy_coded.coded_matrix import CodedMatrix, SideInformation, scaled
from mediant.forms.parts import Parts, check_reach, check_setting, matrix_shape
from mediant.values import Array, TensorInfo


@dataclass(frozen=True)
class Lengths:
    """Bytes of the arrays of a coded matrix, known only after encoding."""

    codes: int
    codebook: int


@dataclass(frozen=True)
class EntropyCoded(Form):
    """Steps follow from `step`; `damping` of the Hessian, `price` of a bit in squared steps, and `floor`, the least
    sensitivity of a row relative to the mean (encode.py).
    """

    method: ClassVar[str] = "entropy_coded"
    measured: ClassVar[bool] = True
    slow: ClassVar[bool] = True
    coding: ClassVar[Coding | None] = "entropy"

    step: float = 0.0
    damping: float = 0.01
    price: float = 0.12
    floor: float = 0.05

    def needs(self) -> frozenset[str]:
        """Returns the Hessian."""
        return frozenset({"hessian"})

    def side_of(self, info: TensorInfo, arrays: Arrays) -> Lengths:
        """Returns the lengths of its arrays."""
        return Lengths(arrays["codes"].size, arrays["codebook"].size)

    def side_from_dict(self, info: TensorInfo, given: Mapping[str, Any], parts: Parts) -> Lengths:
        """Reads the lengths of codes and codebook from the shapes of their arrays."""
        shapes = [parts[name][1] if name in parts else () for name in ("codes", "codebook")]
        return Lengths(*(shape[0] if shape else 0 for shape in shapes))

    def parts(self, info: TensorInfo, side: Lengths | None = None) -> Parts:
        """Returns the stream, the lower bytes of row scales, and all else it takes to read them."""
        rows, columns = matrix_shape(info)
        for name, positive in (("step", True), ("damping", True), ("price", False), ("floor", False)):
            check_setting(info, name, getattr(self, name), positive)
        # What it takes to read numbers comes to half a byte or so for every row and column.
        lengths = side or Lengths(0, (rows + columns) // 2)
        return {
            "codes": ("uint8", (lengths.codes,)),
            "row_scales": ("uint8", (rows,)),
            "codebook": ("uint8", (lengths.codebook,)),
        }

    def matrix(self, info: TensorInfo, arrays: Arrays, side: Lengths | None, planes: int | None = None) -> Floats:
        """Numbers times steps."""
        return CodedMatrix.from_parts(arrays, info.matrix_shape[1]).matrix()

    def verify_sound(self, info: TensorInfo, arrays: Arrays, side: Lengths | None) -> None:
        """Decodes the numbers."""
        try:
            coded = CodedMatrix.from_parts(arrays, info.matrix_shape[1])
        except ValueError as problem:
            raise CheckpointError(f"The tensor {info.name!r} cannot be decoded: {problem}.") from None
        largest = max(abs(int(coded.numbers.max())), abs(int(coded.numbers.min())))
        check_reach(info, largest * float(np.abs(coded.side.row_scales).max()))

    def with_row_gains(self, info: TensorInfo, arrays: Arrays, gains: Floats) -> dict[str, Array]:
        """Returns the row scales times gains, as near as their lower bytes allow."""
        side = SideInformation.from_parts(arrays, info.matrix_shape[1])
        tuned = dataclasses.replace(side, row_scales=scaled(side.row_scales, gains.reshape(-1)))
        return {**arrays, **tuned.parts()}

    def other_coding(self, info: TensorInfo, arrays: Arrays, side: Lengths | None) -> int:
        """Counts the bytes that bit widths fixed for each row would add: as many bits as its range of numbers takes."""
        columns = info.matrix_shape[1]
        numbers = CodedMatrix.from_parts(arrays, columns).numbers.astype(np.int64)
        spans = numbers.max(axis=1) - numbers.min(axis=1) + 1
        bits = np.ceil(np.log2(spans)).astype(np.int64)
        return int(-(-bits.sum() * columns // 8)) - int(arrays["codes"].size)

    def words(self) -> Words:
        """Returns its step."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Words(f"entropy-coded, step {self.step:.3g}", "entropy-coded integers", None, fields)


FORM = EntropyCoded
EXAMPLES = (EntropyCoded(step=0.5), EntropyCoded(step=0.05, price=0.0))
