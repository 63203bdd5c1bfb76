"""Tiles for the kernels: arrays in the file, not copied, as `PackedMatrix` takes them."""

from __future__ import annotations

import contextlib

from mediant.errors import CheckpointError
from mediant.forms import Arrays, Views
from mediant.forms.quantize.decoding import levels
from mediant.forms.quantize.grid_info import GridInfo
from mediant.forms.quantize.settings import Settings
from mediant.kernels import native
from mediant.kernels.packed_matrix import PackedMatrix, PackedRun, WholeLevels, bytes_before, widths_of
from mediant.kernels.pairs import is_codebook
from mediant.values import TensorInfo


def views(plan: Settings, info: TensorInfo, arrays: Arrays, grid: GridInfo) -> Views:
    """Returns the matrix, and those of fewer leading bits where a digit ends there."""
    deepest = max(run.bits for run in plan.runs)
    packed, bits = [packed_matrix(plan, info, arrays, grid)], [deepest]
    for fewer in range(deepest - 1, 1, -1) if plan.storage == "nested" else ():
        with contextlib.suppress(CheckpointError):
            packed.append(packed_matrix(plan, info, arrays, grid, fewer))
            bits.append(fewer)
    assert native is not None
    linears = tuple(native.packed_linear(matrix.handle) for matrix in packed)
    return Views(linears, tuple(bits), plan.runs, plan.truncations, tuple(packed))


def packed_matrix(
    plan: Settings, info: TensorInfo, arrays: Arrays, grid: GridInfo, bits: int | None = None
) -> PackedMatrix:
    """Returns the matrix for products with vectors.

    Args:
        plan: of the tensor.
        info: the tensor.
        arrays: sound ones; they stay in use.
        grid: as the manifest states it.
        bits: leading bits of the codes to use, where they are stored as `nested`; all by default. Where they have no
            levels of their own (the grid `nested` does), a level of leading bits is the mean of those that they lead
            to, rounded to the whole steps that kernels take.

    Raises:
        CheckpointError: it is stored in another way than kernels take, or has no digit that ends there.
    """
    if plan.storage == "rows":
        raise CheckpointError(f"The tensor {info.name!r} is not stored as tiles, so kernels cannot multiply by it.")
    if not plan.packs:
        raise CheckpointError(f"The tensor {info.name!r} has columns that kernels do not treat apart from the others.")
    begins = bytes_before(plan.runs, info.matrix_shape[1])
    runs = []
    try:
        for run, begin in zip(plan.runs, begins[:-1], strict=True):
            used = min(run.bits, bits or run.bits)
            widths = widths_of(plan.storage, run.bits, used)
            whole = _leading_levels(arrays, grid, run.bits, used)
            runs.append(PackedRun(run.rows, widths, arrays["tiles"][begin:], whole))
    except ValueError as problem:
        raise CheckpointError(f"The tensor {info.name!r} does not suit kernels: {problem}.") from None
    scales, codes = arrays["row_scales"], arrays["scale_codes"]
    return PackedMatrix(info.matrix_shape, tuple(runs), scales, codes, plan.scale_form, plan.group, plan.rotation)


def _leading_levels(arrays: Arrays, grid: GridInfo, bits: int, used: int) -> WholeLevels:
    if used in grid.counts and (used == bits or not is_codebook(used, grid.counts[used])):
        return WholeLevels.of(levels(arrays, grid, used), used)
    return WholeLevels.of(levels(arrays, grid, bits), bits).leading(used)
