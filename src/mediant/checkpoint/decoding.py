"""Encodings back to weights, by the rules of FORMAT.md, and what a sound encoding must fulfil."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediant.errors import CheckpointError
from mediant.kernels.bfloat16 import to_float32
from mediant.kernels.bit_planes import packed_bytes, unpack
from mediant.kernels.coded_matrix import CodedMatrix
from mediant.kernels.companded_matrix import LEVELS, CompandedMatrix
from mediant.kernels.dequantize import dequantize
from mediant.kernels.factor_product import factor_product
from mediant.kernels.pairs import is_codebook, join
from mediant.kernels.part_shapes import (
    CodedForm,
    FactorsForm,
    Form,
    GridForm,
    SparseForm,
    compact_info,
    factor_infos,
    grid_form,
    inner_plan,
    part_shapes,
    planned_form,
    scales_columns,
)
from mediant.kernels.rotation import rotate_back
from mediant.kernels.scale_codes import FULL, ScaleForm, decode_scales
from mediant.kernels.tiles import WIDTHS, tile_bytes, unpack_scale_codes, unpack_tiles
from mediant.models.matrix_form import from_matrix
from mediant.plans import TensorPlan
from mediant.values import Array, Encoding

Floats = NDArray[np.float32]

# bfloat16 travels as its bit patterns (kernels/bfloat16.py).
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "uint8": np.dtype("u1"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "float32": np.dtype("<f4"),
}


def decode(encoding: Encoding, form: Form | None = None, planes: int | None = None) -> Floats:
    """The weights of an encoding in the tensor's own shape, float32.

    Args:
        encoding: a sound one (`check`).
        form: its grid as a manifest states it; by default that of the grid the plan names.
        planes: read only so many leading bits of every code, and all of those that have no more. What is not in codes
            of a fixed length is read whole.

    Raises:
        ValueError: a code has no level, coded numbers are not sound, or leading bits have no levels of their own.
        PlanError: there is no such grid.
    """
    if encoding.plan.method == "cast":
        return _numbers(encoding.parts["data"], encoding.plan.dtype).reshape(encoding.info.shape)
    rows, columns = encoding.info.matrix_shape
    if encoding.plan.method == "lattice":
        return np.asarray(from_matrix(CodedMatrix.from_parts(encoding.parts, columns).matrix(), encoding.info))
    if encoding.plan.method == "compand":
        companded = CompandedMatrix.from_parts(encoding.parts, rows, columns)
        return np.asarray(from_matrix(companded.matrix(), encoding.info))
    if encoding.plan.method == "sparse":
        return np.asarray(from_matrix(_sparse(encoding, form), encoding.info))
    if encoding.plan.method == "factors":
        found = factors(encoding, form)
        return np.asarray(from_matrix(factor_product(found["left"], found["right"], found.get("base")), encoding.info))
    form = form if isinstance(form, GridForm) else grid_form(encoding.plan)
    scale, zero = scales(encoding), zeros(encoding) if form.zero_point else None
    matrix = np.empty((rows, columns), np.float32)
    row = 0
    for run, codes in zip(encoding.plan.runs, run_codes(encoding), strict=True):
        here, used = slice(row, row + run.rows), min(run.bits, planes or run.bits)
        if used < run.bits:
            _check_leading(encoding, form, used)
        dequantize(
            codes if used == run.bits else codes >> np.uint8(run.bits - used),
            scale[here],
            None if zero is None else zero[here],
            levels(encoding, form, used),
            encoding.plan.group,
            out=matrix[here],
        )
        row += run.rows
    matrix = _in_own_basis(_with_outliers(matrix, encoding), encoding)
    return np.asarray(from_matrix(matrix, encoding.info))


def _check_leading(encoding: Encoding, form: GridForm, bits: int) -> None:
    if bits not in form.counts or is_codebook(bits, form.counts[bits]):
        raise ValueError(f"the {bits} leading bits of the codes of {encoding.info.name!r} have no levels of their own")


def _with_outliers(matrix: Floats, encoding: Encoding) -> Floats:
    if encoding.plan.outliers:
        matrix[:, _mask(encoding)] = encoding.parts["outliers"]
    return matrix


def _mask(encoding: Encoding) -> NDArray[np.bool_]:
    """Which columns are outliers."""
    return unpack(encoding.parts["outlier_mask"], encoding.info.matrix_shape[1], 1).astype(np.bool_)


def _in_own_basis(matrix: Floats, encoding: Encoding) -> Floats:
    basis = encoding.plan.basis
    if not basis:
        return matrix
    if scales_columns(encoding.plan):
        return matrix * to_float32(encoding.parts["column_scales"])
    return rotate_back(matrix, basis["seed"])


def _sparse(encoding: Encoding, form: Form | None) -> Floats:
    form = form if isinstance(form, SparseForm) else planned_form(encoding.info, encoding.plan)
    assert isinstance(form, SparseForm)  # the method says so
    mask = form.positions.decode(encoding.parts["positions"])
    matrix = np.zeros(mask.shape, np.float32)
    matrix[mask] = decode(_kept(encoding, form), form.grid).reshape(-1)
    return matrix


def _kept(encoding: Encoding, form: SparseForm) -> Encoding:
    """The weights of a sparse tensor that are kept, as a tensor of their own."""
    info, parts = encoding.info, {name: part for name, part in encoding.parts.items() if name != "positions"}
    if encoding.plan.grid:
        return Encoding(compact_info(info, form.positions), inner_plan(encoding.plan), parts)
    plan = TensorPlan("cast", dtype=encoding.plan.dtype)
    return Encoding(replace(info, shape=(form.positions.stored,), layout="none"), plan, parts)


def run_codes(encoding: Encoding) -> Iterator[NDArray[np.uint8]]:
    """The codes of each run of a quantized matrix, [rows, columns]: places in its table of levels or points."""
    plan, columns = encoding.plan, encoding.info.matrix_shape[1]
    byte = 0
    for run in plan.runs:
        if plan.storage == "rows":
            codes = unpack(encoding.parts["codes"][byte:], run.rows * columns, run.bits).reshape(run.rows, columns)
            byte += packed_bytes(run.rows * columns, run.bits)
        else:
            widths = WIDTHS[plan.storage][run.bits]
            codes = unpack_tiles(encoding.parts["tiles"][byte:], run.rows, columns, widths)
            byte += tile_bytes([run], columns)
        yield join(codes) if _in_pairs(encoding, run.bits) else codes


def _in_pairs(encoding: Encoding, bits: int) -> bool:
    table = encoding.parts.get(f"levels.{bits}")
    return table is not None and is_codebook(bits, table.size)


def factors(encoding: Encoding, form: Form | None = None) -> dict[str, Floats]:
    """The matrices whose product, plus `base` where there is one, is a tensor with the method `factors`, by name.

    Arguments and errors as for `decode`.
    """
    grids = form.grids if isinstance(form, FactorsForm) else {}
    return {name: decode(factor, grids.get(name)) for name, factor in factor_encodings(encoding).items()}


def factor_encodings(encoding: Encoding) -> dict[str, Encoding]:
    """The factors as encodings of their own."""

    def parts(factor: str) -> dict[str, Array]:
        prefix = f"{factor}."
        return {name.removeprefix(prefix): a for name, a in encoding.parts.items() if name.startswith(prefix)}

    infos = factor_infos(encoding.info, encoding.plan)
    return {name: Encoding(info, encoding.plan.factors[name], parts(name)) for name, info in infos.items()}


def levels(encoding: Encoding, form: GridForm, bits: int) -> Floats:
    """The level of every code at one depth, or the points of its codebook, flat: float32."""
    if form.counts:
        return np.asarray(encoding.parts[f"levels.{bits}"], np.float32)
    return np.float32(form.first.get(bits, 0)) + np.arange(1 << bits, dtype=np.float32)


def check(encoding: Encoding, form: Form | None) -> None:
    """Refuses an encoding that is not what its plan says or does not decode to finite weights.

    Raises:
        CheckpointError: one sentence about the first fault.
        PlanError: the plan does not fit the tensor.
    """
    name = encoding.info.name
    expected = part_shapes(encoding.info, encoding.plan, form)
    found = {part: (array.dtype, array.shape) for part, array in encoding.parts.items()}
    if found != {part: (NUMPY_DTYPES[dtype], shape) for part, (dtype, shape) in expected.items()}:
        raise CheckpointError(f"The parts of {name!r} are not those of its plan: {found} instead of {expected}.")
    for part in expected:
        _check_finite(encoding, part)
    if encoding.plan.method == "compand":
        _check_companded(encoding)
    elif isinstance(form, CodedForm):
        _check_coded(encoding)
    elif isinstance(form, SparseForm):
        try:
            form.positions.decode(encoding.parts["positions"])
        except ValueError as problem:
            raise CheckpointError(f"The tensor {name!r} cannot be decoded: {problem}.") from None
        check(_kept(encoding, form), form.grid)
    elif isinstance(form, FactorsForm):
        _check_factors(encoding, form)
    elif form is not None:
        if encoding.plan.outliers and int(_mask(encoding).sum()) != encoding.plan.outliers:
            raise CheckpointError(f"The mask of {name!r} does not have {encoding.plan.outliers} outliers.")
        check_scales(encoding, form)
        _check_codes(encoding, form)


def check_scales(encoding: Encoding, form: Form | None) -> None:
    """The part of `check` that says whether a quantized matrix is finite whatever its codes are; few bytes are read.

    Raises:
        CheckpointError: a scale or a level is not finite, or levels do not ascend.
    """
    if isinstance(form, GridForm):
        for part in encoding.parts.keys() - {"codes", "tiles", "scale_codes"}:
            _check_finite(encoding, part)
        _check_levels(encoding, form)
        _check_reach(encoding, form)


def _check_finite(encoding: Encoding, part: str) -> None:
    dtype = {np.dtype("<u2"): "bfloat16"}.get(encoding.parts[part].dtype, encoding.parts[part].dtype.name)
    if dtype != "uint8" and not _finite(encoding.parts[part], dtype):
        raise CheckpointError(f"The part {part!r} of {encoding.info.name!r} holds a number that is not finite.")


def _check_coded(encoding: Encoding) -> None:
    try:
        coded = CodedMatrix.from_parts(encoding.parts, encoding.info.matrix_shape[1])
    except ValueError as problem:
        raise CheckpointError(f"The tensor {encoding.info.name!r} cannot be decoded: {problem}.") from None
    largest = max(abs(int(coded.numbers.max())), abs(int(coded.numbers.min())))
    if largest * float(np.abs(coded.codebook.row_scales).max()) > float(np.finfo(np.float32).max):
        raise CheckpointError(f"The scales of {encoding.info.name!r} are too large for finite weights.")


def _check_companded(encoding: Encoding) -> None:
    try:
        found = CompandedMatrix.from_parts(encoding.parts, *encoding.info.matrix_shape)
    except ValueError as problem:
        raise CheckpointError(f"The tensor {encoding.info.name!r} cannot be decoded: {problem}.") from None
    largest = float(np.abs(found.scales).max()) * float(np.abs(LEVELS).max()) + float(np.abs(found.centres).max())
    if largest > float(np.finfo(np.float32).max):
        raise CheckpointError(f"The scales of {encoding.info.name!r} are too large for finite weights.")


def _check_factors(encoding: Encoding, form: FactorsForm) -> None:
    for name, factor in factor_encodings(encoding).items():
        check(factor, form.grids.get(name))
    found = factors(encoding, form)
    largest = {name: float(np.abs(matrix).max()) for name, matrix in found.items()}
    reach = encoding.plan.rank * largest["left"] * largest["right"] + largest.get("base", 0.0)
    if reach > float(np.finfo(np.float32).max):
        raise CheckpointError(f"The factors of {encoding.info.name!r} are too large for finite weights.")


def _check_levels(encoding: Encoding, form: GridForm) -> None:
    for bits, count in form.counts.items():
        if not is_codebook(bits, count) and not np.all(np.diff(encoding.parts[f"levels.{bits}"]) > 0):
            raise CheckpointError(f"The levels of {encoding.info.name!r} at {bits} bits do not ascend.")


def _check_reach(encoding: Encoding, form: GridForm) -> None:
    """The largest scale times the largest level must not overflow."""
    depths = {run.bits for run in encoding.plan.runs}
    # The difference of a code and a zero of b bits is below 2^b, as is every code.
    level = max(float(np.abs(levels(encoding, form, bits)).max()) for bits in depths)
    part = "scales" if encoding.plan.scale_bits == FULL else "row_scales"
    scale = float(np.abs(to_float32(encoding.parts[part])).max())
    largest = level * scale
    if scales_columns(encoding.plan):
        outlier = float(np.finfo(np.float16).max) if encoding.plan.outliers else 0.0
        largest = max(largest, outlier) * max(1.0, float(np.abs(to_float32(encoding.parts["column_scales"])).max()))
    if largest > float(np.finfo(np.float32).max):
        raise CheckpointError(f"The scales of {encoding.info.name!r} are too large for finite weights.")


def _check_codes(encoding: Encoding, form: GridForm) -> None:
    counts = [form.counts.get(run.bits, 1 << run.bits) for run in encoding.plan.runs]
    if all(count == 1 << run.bits for count, run in zip(counts, encoding.plan.runs, strict=True)):
        return
    for count, codes in zip(counts, run_codes(encoding), strict=True):
        if int(codes.max()) >= count:
            raise CheckpointError(
                f"The tensor {encoding.info.name!r} has the code {int(codes.max())}, but only {count} levels."
            )


def _finite(part: Array, dtype: str) -> bool:
    """Whether no exponent is the largest one; NumPy's own test converts half floats first and is far slower."""
    exponents = {"float16": (np.uint16, 0x7C00), "bfloat16": (np.uint16, 0x7F80), "float32": (np.uint32, 0x7F800000)}
    word, exponent = exponents[dtype]
    return not bool(np.any((part.view(word) & exponent) == exponent))


def _numbers(data: Array, dtype: str) -> Floats:
    return to_float32(data) if dtype == "bfloat16" else data.astype(np.float32)


def scales(encoding: Encoding) -> Floats:
    """The scale of every group of a quantized matrix, [rows, groups]."""
    parts = dict(encoding.parts)
    if encoding.plan.scale_bits != FULL:
        shape = _groups(encoding)
        count, bits = shape[0] * shape[1], encoding.plan.scale_bits
        if encoding.plan.storage == "rows":
            parts["scale_codes"] = unpack(parts["scale_codes"], count, bits).reshape(shape)
        else:
            parts["scale_codes"] = unpack_scale_codes(parts["scale_codes"], encoding.plan.runs, shape[1], bits)
    return decode_scales(parts, ScaleForm.of(encoding.plan))


def zeros(encoding: Encoding) -> Floats:
    """The zero point of every group of a matrix on a grid that has them, [rows, groups]."""
    found = np.empty(_groups(encoding), np.float32)
    row = byte = 0
    for run in encoding.plan.runs:
        count = run.rows * found.shape[1]
        stored = unpack(encoding.parts["zeros"][byte:], count, run.bits)
        found[row : row + run.rows] = stored.reshape(run.rows, -1)
        row += run.rows
        byte += packed_bytes(count, run.bits)
    return found


def _groups(encoding: Encoding) -> tuple[int, int]:
    rows, columns = encoding.info.matrix_shape
    return rows, -(-columns // encoding.plan.group)
