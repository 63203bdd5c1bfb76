"""Stored matrices for the kernels: parts in the file, not copied, as `PackedMatrix` takes them."""

from __future__ import annotations

from mediant.checkpoint.decoding import levels
from mediant.errors import CheckpointError
from mediant.kernels.packed_matrix import PackedMatrix, PackedRun, WholeLevels, bytes_before, widths_of
from mediant.kernels.pairs import is_codebook
from mediant.kernels.part_shapes import Form, GridForm, grid_form
from mediant.kernels.scale_codes import ScaleForm
from mediant.values import Encoding


def packed_matrix(encoding: Encoding, form: Form | None = None, bits: int | None = None) -> PackedMatrix:
    """The matrix of a quantized encoding, for products with vectors.

    Args:
        encoding: a sound one (`decoding.check`); its parts stay in use.
        form: its grid as the manifest states it; by default that of the grid the plan names.
        bits: leading bits of the codes to use, where they are stored as `nested`; all by default. Where they have no
            levels of their own (the grid `nested` does), a level of leading bits is the mean of those that they lead
            to, rounded to the whole steps that kernels take.

    Raises:
        CheckpointError: it is stored in another way than kernels take, or has no digit that ends there.
    """
    info, plan = encoding.info, encoding.plan
    if plan.method != "quantize" or plan.storage == "rows":
        raise CheckpointError(f"The tensor {info.name!r} is not stored as tiles, so kernels cannot multiply by it.")
    if plan.outliers or (plan.basis and plan.basis["name"] != "rotation"):
        raise CheckpointError(f"The tensor {info.name!r} has columns that kernels do not treat apart from the others.")
    grid = form if isinstance(form, GridForm) else grid_form(plan)
    begins = bytes_before(plan.runs, info.matrix_shape[1])
    runs = []
    try:
        for run, begin in zip(plan.runs, begins[:-1], strict=True):
            used = min(run.bits, bits or run.bits)
            widths = widths_of(plan.storage, run.bits, used)
            whole = _leading_levels(encoding, grid, run.bits, used)
            runs.append(PackedRun(run.rows, widths, encoding.parts["tiles"][begin:], whole))
    except ValueError as problem:
        raise CheckpointError(f"The tensor {info.name!r} does not suit kernels: {problem}.") from None
    seed = plan.basis["seed"] if plan.basis else None
    scales, codes = encoding.parts["row_scales"], encoding.parts["scale_codes"]
    return PackedMatrix(info.matrix_shape, tuple(runs), scales, codes, ScaleForm.of(plan), plan.group, seed)


def _leading_levels(encoding: Encoding, grid: GridForm, bits: int, used: int) -> WholeLevels:
    if used in grid.counts and (used == bits or not is_codebook(used, grid.counts[used])):
        return WholeLevels.of(levels(encoding, grid, used), used)
    return WholeLevels.of(levels(encoding, grid, bits), bits).leading(used)
