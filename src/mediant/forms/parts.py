"""Stored arrays: their types, bytes, and what every form asks of a tensor's shape and of numbers read from a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediant.errors import CheckpointError, PlanError
from mediant.kernels.bfloat16 import to_float32
from mediant.values import Array, TensorInfo

# Type and shape of every array of a tensor, by name, in the order of the file.
Parts = dict[str, tuple[str, tuple[int, ...]]]

# bfloat16 travels as its bit patterns (kernels/bfloat16.py).
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "uint8": np.dtype("u1"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "float32": np.dtype("<f4"),
}
ITEM_BYTES = {name: dtype.itemsize for name, dtype in NUMPY_DTYPES.items()}
NUMBER_DTYPES = ("float32", "float16", "bfloat16")
MATRIX_AXES = {"out_in": 2, "in_out": 2, "experts_out_in": 3, "experts_in_out": 3}
# Every product of sizes below this bound is exact in 64 bits and in a double.
MOST_WEIGHTS = 1 << 48
LARGEST_SETTING = 1e30
MOST_FLOAT32 = float(np.finfo(np.float32).max)


def nbytes(parts: Parts) -> int:
    """Returns the bytes of all arrays."""
    return sum(math.prod(shape) * ITEM_BYTES[dtype] for dtype, shape in parts.values())


def check_shape(info: TensorInfo) -> None:
    """Refuses a shape that no tensor has.

    Raises:
        PlanError: it is negative, or of more weights than sizes are computed for.
    """
    if math.prod(max(1, size) for size in info.shape) >= MOST_WEIGHTS or min(info.shape, default=1) < 0:
        raise PlanError(f"The tensor {info.name!r} cannot have the shape {list(info.shape)}.")


def matrix_shape(info: TensorInfo) -> tuple[int, int]:
    """Returns rows and columns of a tensor's matrix form.

    Raises:
        PlanError: it has none, or no weights.
    """
    check_shape(info)
    if len(info.shape) != MATRIX_AXES.get(info.layout):
        raise PlanError(
            f"The tensor {info.name!r} of shape {list(info.shape)} is not a matrix, so it can only be cast."
        )
    rows, columns = info.matrix_shape
    if rows < 1 or columns < 1:
        raise PlanError(f"The tensor {info.name!r} of shape {list(info.shape)} is empty, so it can only be cast.")
    return rows, columns


def check_setting(info: TensorInfo, name: str, value: float, positive: bool = True) -> None:
    """Refuses a number of a plan that is negative, or 0 where it has to be positive, or too large.

    Raises:
        PlanError: naming the number.
    """
    if not (value > 0 if positive else value >= 0) or value >= LARGEST_SETTING:
        wanted = "a positive number" if positive else "0 or a positive number"
        raise PlanError(f"The {name} of {info.name!r} is {value}; it takes {wanted}.")


def check_arrays(info: TensorInfo, arrays: Mapping[str, Array], expected: Parts) -> None:
    """Refuses arrays of other names, types or shapes than expected.

    Raises:
        CheckpointError: saying both.
    """
    found = {part: (array.dtype, array.shape) for part, array in arrays.items()}
    if found != {part: (NUMPY_DTYPES[dtype], shape) for part, (dtype, shape) in expected.items()}:
        raise CheckpointError(f"The parts of {info.name!r} are not those of its plan: {found} instead of {expected}.")


def check_finite(info: TensorInfo, arrays: Mapping[str, Array], names: Iterable[str]) -> None:
    """Refuses the named arrays if one holds an infinity or NaN.

    Raises:
        CheckpointError: naming the first.
    """
    for part in names:
        if not _finite(arrays[part]):
            raise CheckpointError(f"The part {part!r} of {info.name!r} holds a number that is not finite.")


def check_reach(info: TensorInfo, largest: float, what: str = "scales") -> None:
    """Refuses weights of which the largest is no float32.

    Raises:
        CheckpointError: naming what is too large.
    """
    if largest > MOST_FLOAT32:
        raise CheckpointError(f"The {what} of {info.name!r} are too large for finite weights.")


def _finite(array: Array) -> bool:
    """Returns True if no exponent is the largest one; NumPy's own test converts half floats first and is far slower."""
    exponents = {"float16": (np.uint16, 0x7C00), "uint16": (np.uint16, 0x7F80), "float32": (np.uint32, 0x7F800000)}
    if array.dtype.name not in exponents:
        return True
    word, exponent = exponents[array.dtype.name]
    return not bool(np.any((array.view(word) & exponent) == exponent))


def numbers(data: Array, dtype: str) -> NDArray[np.float32]:
    """Returns the float32 values of stored numbers of a type."""
    return to_float32(data) if dtype == "bfloat16" else data.astype(np.float32)


def as_parts(data: Mapping[str, Any]) -> Parts:
    """Types and shapes of arrays from JSON."""
    return {name: (dtype, tuple(shape)) for name, (dtype, shape) in data.items()}


def within(arrays: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Selects the arrays stored under `name.`, by the rest of their names.

    >>> within({"left.data": 1, "right.data": 2}, "left")
    {'data': 1}
    """
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
