"""Stored arrays of quantized matrices back to weights, by the rules of FORMAT.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mediant.errors import CheckpointError
from mediant.forms import Arrays, Bytes, Floats
from mediant.forms.parts import check_finite, check_reach
from mediant.forms.quantize.grid_info import GridInfo
from mediant.forms.quantize.settings import Settings
from mediant.kernels.bfloat16 import from_float32, to_float32
from mediant.kernels.bit_planes import packed_bytes, unpack
from mediant.kernels.dequantize import dequantize
from mediant.kernels.pairs import is_codebook, join
from mediant.kernels.rotation import rotate_back
from mediant.kernels.scale_codes import FULL, decode_scales
from mediant.values import Array, TensorInfo

MOST_FLOAT16 = float(np.finfo(np.float16).max)


def matrix(plan: Settings, info: TensorInfo, arrays: Arrays, grid: GridInfo, planes: int | None) -> Floats:
    """Returns the weights [rows, columns] in the model's own basis, of so many leading bits of the codes or of all."""
    rows, columns = info.matrix_shape
    scale, zero = scales(plan, info, arrays), zeros(plan, info, arrays) if grid.zero_point else None
    found = np.empty((rows, columns), np.float32)
    row = 0
    for run, codes in zip(plan.runs, run_codes(plan, info, arrays), strict=True):
        here, used = slice(row, row + run.rows), min(run.bits, planes or run.bits)
        if used < run.bits and (used not in grid.counts or is_codebook(used, grid.counts[used])):
            raise ValueError(f"the {used} leading bits of the codes of {info.name!r} have no levels of their own")
        dequantize(
            codes if used == run.bits else codes >> np.uint8(run.bits - used),
            scale[here],
            None if zero is None else zero[here],
            levels(arrays, grid, used),
            plan.group,
            out=found[here],
        )
        row += run.rows
    if plan.outliers:
        found[:, outlier_columns(arrays, columns)] = arrays["outliers"]
    if plan.scales_columns:
        return found * to_float32(arrays["column_scales"])
    return found if plan.rotation is None else rotate_back(found, plan.rotation)


def outlier_columns(arrays: Arrays, columns: int) -> NDArray[np.bool_]:
    """Returns True at the outliers, [columns]."""
    return unpack(arrays["outlier_mask"], columns, 1).astype(np.bool_)


def run_codes(plan: Settings, info: TensorInfo, arrays: Arrays) -> Iterator[Bytes]:
    """Yields the codes of each run [rows, columns]: places in its table of levels or points."""
    columns, byte = info.matrix_shape[1], 0
    for run in plan.runs:
        codes = plan.layout.unpack(arrays[plan.layout.part][byte:], run, columns)
        byte += plan.layout.code_bytes(run, columns)
        yield join(codes) if _in_pairs(arrays, run.bits) else codes


def _in_pairs(arrays: Arrays, bits: int) -> bool:
    table = arrays.get(f"levels.{bits}")
    return table is not None and is_codebook(bits, table.size)


def packed(plan: Settings, codes: Sequence[Bytes]) -> Bytes:
    """Returns the codes of all runs as they are stored."""
    return np.concatenate([plan.layout.pack(found, run.bits) for found, run in zip(codes, plan.runs, strict=True)])


def levels(arrays: Arrays, grid: GridInfo, bits: int) -> Floats:
    """Returns the level of every code of one bit width, or the points of its codebook, flat: float32."""
    if grid.counts:
        return np.asarray(arrays[f"levels.{bits}"], np.float32)
    return np.float32(grid.first.get(bits, 0)) + np.arange(1 << bits, dtype=np.float32)


def scales(plan: Settings, info: TensorInfo, arrays: Arrays) -> Floats:
    """Returns the scale of every group, [rows, groups]."""
    parts = dict(arrays)
    if plan.scale_bits != FULL:
        groups = plan.groups(info)[1]
        parts["scale_codes"] = plan.layout.unpack_scale_codes(parts["scale_codes"], plan.runs, groups, plan.scale_bits)
    return decode_scales(parts, plan.scale_form)


def zeros(plan: Settings, info: TensorInfo, arrays: Arrays) -> Floats:
    """Returns the zero point of every group of a matrix on a grid that has them, [rows, groups]."""
    found = np.empty(plan.groups(info), np.float32)
    row = byte = 0
    for run in plan.runs:
        count = run.rows * found.shape[1]
        found[row : row + run.rows] = unpack(arrays["zeros"][byte:], count, run.bits).reshape(run.rows, -1)
        row += run.rows
        byte += packed_bytes(count, run.bits)
    return found


def with_row_gains(arrays: Arrays, gains: Floats) -> dict[str, Array]:
    """Scales and outliers of every row times its gain [rows]; codes stay."""
    part = "row_scales" if "row_scales" in arrays else "scales"
    found = to_float32(arrays[part])
    parts = {**arrays, part: from_float32(found * gains.reshape(-1, *[1] * (found.ndim - 1)))}
    if "outliers" in parts:
        outliers = parts["outliers"].astype(np.float32) * gains.reshape(-1, 1)
        parts["outliers"] = np.clip(outliers, -MOST_FLOAT16, MOST_FLOAT16).astype(np.float16)
    return parts


def verify(plan: Settings, info: TensorInfo, arrays: Arrays, grid: GridInfo) -> None:
    """Refuses arrays in which a code has no level, or that decode to infinite weights."""
    if plan.outliers and int(outlier_columns(arrays, info.matrix_shape[1]).sum()) != plan.outliers:
        raise CheckpointError(f"The mask of {info.name!r} does not have {plan.outliers} outliers.")
    verify_scales(plan, info, arrays, grid)
    counts = [grid.counts.get(run.bits, 1 << run.bits) for run in plan.runs]
    if all(count == 1 << run.bits for count, run in zip(counts, plan.runs, strict=True)):
        return
    for count, codes in zip(counts, run_codes(plan, info, arrays), strict=True):
        if int(codes.max()) >= count:
            raise CheckpointError(f"The tensor {info.name!r} has the code {int(codes.max())}, but only {count} levels.")


def verify_scales(plan: Settings, info: TensorInfo, arrays: Arrays, grid: GridInfo) -> None:
    """Refuses scales and levels that are not finite, do not ascend, or whose products overflow; codes are not read."""
    check_finite(info, arrays, arrays.keys() - {"codes", "tiles", "scale_codes"})
    for bits, count in grid.counts.items():
        if not is_codebook(bits, count) and not np.all(np.diff(arrays[f"levels.{bits}"]) > 0):
            raise CheckpointError(f"The levels of {info.name!r} at {bits} bits do not ascend.")
    # The difference of a code and a zero of b bits is below 2^b, as is every code.
    level = max(float(np.abs(levels(arrays, grid, bits)).max()) for bits in {run.bits for run in plan.runs})
    part = "scales" if plan.scale_bits == FULL else "row_scales"
    largest = level * float(np.abs(to_float32(arrays[part])).max())
    if plan.scales_columns:
        outlier = MOST_FLOAT16 if plan.outliers else 0.0
        largest = max(largest, outlier) * max(1.0, float(np.abs(to_float32(arrays["column_scales"])).max()))
    check_reach(info, largest)


def entropy_change(plan: Settings, info: TensorInfo, arrays: Arrays) -> int:
    """Returns the bytes that the codes would take more if those of each run took their entropy; usually less than 0."""
    columns, change = info.matrix_shape[1], 0.0
    for run, codes in zip(plan.runs, run_codes(plan, info, arrays), strict=True):
        change += entropy_bytes(codes) - plan.layout.code_bytes(run, columns)
    return round(change)


def entropy_bytes(codes: Array) -> float:
    """Returns the entropy of codes, uint8 of any shape, in bytes for all of them.

    >>> entropy_bytes(np.array([0, 1, 2, 3], np.uint8)), entropy_bytes(np.zeros(9, np.uint8))
    (1.0, 0.0)
    """
    counts = np.bincount(codes.reshape(-1))
    counts = counts[counts > 0].astype(np.float64)
    return max(0.0, float((counts * np.log2(counts.sum() / counts)).sum()) / 8)
