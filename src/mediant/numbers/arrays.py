"""What the number theory takes and gives: finite doubles, int64, and Python integers where int64 is too small."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mediant.errors import UsageError

Doubles = NDArray[np.float64]
# int64, or objects that are Python integers; NumPy computes with both by the same expressions.
Integers = NDArray[Any]

INT64_MAX = 2**63 - 1
# Every integer up to here is a double.
EXACT_DOUBLE = 2**53


def finite_doubles(values: ArrayLike, name: str = "x") -> Doubles:
    """`values` as float64, unchanged in value.

    Raises:
        UsageError: not numbers, not finite, or not exactly representable as float64.
    """
    array = np.asarray(values)
    if array.dtype.kind in "iu":
        _refuse((array > EXACT_DOUBLE) | (array < -EXACT_DOUBLE), array, name, "an integer within ±2^53")
    elif not (array.dtype.kind == "f" and array.dtype.itemsize <= 8):
        raise UsageError(f"{name} has the type {array.dtype}; it takes floating-point numbers up to float64.")
    doubles = array.astype(np.float64, copy=False)
    _refuse(~np.isfinite(doubles), array, name, "a finite number")
    return doubles


def integers(values: ArrayLike, name: str) -> NDArray[np.int64]:
    """`values` as int64.

    Raises:
        UsageError: not integers, or beyond ±(2^63 - 1), so that negation always fits.
    """
    array = np.asarray(values)
    if array.dtype.kind == "O" and all(isinstance(v, int) for v in array.flat):
        _refuse(np.abs(array) > INT64_MAX, array, name, "an integer within ±(2^63 - 1)")
    elif array.dtype.kind not in "iu":
        raise UsageError(f"{name} has the type {array.dtype}; it takes integers.")
    elif array.dtype.itemsize == 8:
        outside = array > INT64_MAX if array.dtype.kind == "u" else array < -INT64_MAX
        _refuse(outside, array, name, "an integer within ±(2^63 - 1)")
    return array.astype(np.int64, copy=False)


def whole_number(value: int, name: str, least: int, most: int | None = None) -> int:
    """`value` as a Python integer from `least` to `most`.

    Raises:
        UsageError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise UsageError(f"{name} is {value!r}; it takes a whole number.")
    if value < least or (most is not None and value > most):
        limits = f"from {least}" if most is None else f"from {least} to {most}"
        raise UsageError(f"{name} is {value}; it takes a whole number {limits}.")
    return int(value)


def objects(values: list[int], shape: tuple[int, ...]) -> Integers:
    """Returns an array of Python integers, of any size, in the given shape."""
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


def narrowed(values: ArrayLike) -> Integers:
    """Returns an array of int64 if every element fits, else of Python integers."""
    array = np.asarray(values)
    fits = array.dtype != object or all(-INT64_MAX <= v <= INT64_MAX for v in array.flat)
    return array.astype(np.int64, copy=False) if fits else array


def place(index: np.intp | int, shape: tuple[int, ...]) -> str:
    """Names an element in a message: `[2, 5]` for a flat index, nothing for a scalar."""
    return f"[{', '.join(str(i) for i in np.unravel_index(index, shape))}]" if shape else ""


def _refuse(wrong: Any, array: NDArray[Any], name: str, right: str) -> None:
    if np.any(wrong):
        first = np.argmax(wrong)
        raise UsageError(f"{name}{place(first, array.shape)} is {array.flat[first]}; it must be {right}.")
