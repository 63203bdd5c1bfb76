"""The parts of a stored tensor: what they are called, their types and their shapes. Arithmetic only.

Planning counts bytes with it, the writer lays files out with it, and the reader refuses whatever differs from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediant import discovery
from mediant.errors import PlanError
from mediant.kernels.bit_planes import packed_bytes
from mediant.kernels.pairs import is_codebook
from mediant.kernels.scale_codes import ScaleForm
from mediant.kernels.sparse_positions import Positions
from mediant.kernels.tiles import BLOCK, STORAGES, scale_code_bytes, tile_bytes
from mediant.plans import TensorPlan
from mediant.values import Encoding, TensorInfo

ITEM_BYTES = {"uint8": 1, "float16": 2, "bfloat16": 2, "float32": 4}
CAST_DTYPES = ("float32", "float16", "bfloat16")
MATRIX_AXES = {"out_in": 2, "in_out": 2, "experts_out_in": 3, "experts_in_out": 3}
# Every product of sizes below this bound is exact in 64 bits and in a double.
MOST_WEIGHTS = 1 << 48
# Classes that a row or a column of a coded matrix can have.
CLASSES = 32
# Of companded matrices: bits that say a group's depth, the largest depth, and the most clusters of rows.
DEPTH_BITS = 4
MOST_DEPTH = 8
MOST_CLUSTERS = 256
LARGEST_SETTING = 1e30

# A grid that is fitted to data shows its form on any: as many levels as it ever has, and no two of them 1 apart.
_ANY_SAMPLE = np.linspace(-1, 1, 1025) ** 3

Parts = dict[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class GridForm:
    """What a file must say about a grid, by depth in bits.

    An *affine* grid has the levels first, first + 1, ... and says only `first`; a *table* grid stores its levels, or
    the points of a codebook of pairs, and says here how many numbers these are, also for the depths at which leading
    bits of its codes can be read alone. A grid with a zero point is affine from 0.
    """

    first: Mapping[int, float] = field(default_factory=dict)
    counts: Mapping[int, int] = field(default_factory=dict)
    zero_point: bool = False


@dataclass(frozen=True)
class CodedForm:
    """What only the coded numbers themselves can say of a tensor with the method `lattice`, or `compand`, which has no
    codebook: bytes of its parts.
    """

    codes: int
    codebook: int = 0


@dataclass(frozen=True)
class SparseForm:
    """What a file must say about a tensor with the method `sparse`: where its weights are, and their grid if any."""

    positions: Positions
    grid: GridForm | None = None


@dataclass(frozen=True)
class FactorsForm:
    """The grids of the quantized ones among the factors of a tensor, by their names."""

    grids: Mapping[str, GridForm] = field(default_factory=dict)


Form = GridForm | CodedForm | SparseForm | FactorsForm


def form_of(encoding: Encoding) -> Form | None:
    """What a file must say about a tensor that has been encoded, beside its plan; None where it was cast.

    Raises:
        PlanError: as for `grid_form`.
    """
    if encoding.plan.method == "lattice":
        return CodedForm(encoding.parts["codes"].size, encoding.parts["codebook"].size)
    if encoding.plan.method == "compand":
        return CodedForm(encoding.parts["codes"].size)
    return planned_form(encoding.info, encoding.plan)


def planned_form(info: TensorInfo, plan: TensorPlan) -> GridForm | SparseForm | FactorsForm | None:
    """What a file must say about a tensor as far as its plan tells.

    Raises:
        PlanError: as for `grid_form` and `positions_of`.
    """
    if plan.method == "sparse":
        return SparseForm(positions_of(info, plan), grid_form(inner_plan(plan)) if plan.grid else None)
    if plan.method == "factors":
        quantized = {name: factor for name, factor in plan.factors.items() if factor.method == "quantize"}
        return FactorsForm({name: grid_form(factor) for name, factor in quantized.items()})
    return grid_form(plan) if plan.method == "quantize" else None


def positions_of(info: TensorInfo, plan: TensorPlan) -> Positions:
    """Where a sparse tensor's weights are, by the pattern in its plan.

    Raises:
        PlanError: there is no such pattern, or it does not fit the matrix.
    """
    rows, columns = _checked_matrix(info)
    pattern = discovery.make("pruning.patterns", plan.pattern)
    try:
        found: Positions = pattern.positions(rows, columns)
    except ValueError as problem:
        raise PlanError(f"The pattern {dict(plan.pattern)} does not fit {info.name!r}: {problem}.") from None
    return found


def compact_info(info: TensorInfo, positions: Positions) -> TensorInfo:
    """The matrix of what each row keeps.

    Raises:
        PlanError: rows keep different numbers of weights.
    """
    if not positions.row:
        raise PlanError(f"The rows of {info.name!r} may keep different numbers of weights, so these are only cast.")
    return TensorInfo(info.name, (positions.rows, positions.row), info.dtype, info.role, "out_in")


def inner_plan(plan: TensorPlan) -> TensorPlan:
    """How the weights are quantized that a sparse plan keeps."""
    return replace(plan, method="quantize", pattern={}, score={})


def grid_form(plan: TensorPlan) -> GridForm:
    """The form of the grid that a plan names, at the depths of the plan's runs.

    Raises:
        PlanError: there is no such grid, or it does not have such a depth.
    """
    depths = tuple(sorted({run.bits for run in plan.runs}))
    return _grid_form(json.dumps(dict(plan.grid), sort_keys=True), depths)


@cache
def _grid_form(spec: str, depths: tuple[int, ...]) -> GridForm:
    grid = discovery.make("grids", json.loads(spec))
    if hasattr(grid, "leading"):
        depths = tuple(sorted({*depths, *(leading for bits in depths for leading in grid.leading(bits))}))
    try:
        tables = {bits: np.asarray(grid.levels(bits, _ANY_SAMPLE)).reshape(-1) for bits in depths}
    except (ArithmeticError, TypeError, ValueError) as problem:
        raise PlanError(f"The grid {spec} does not have the depths {depths}: {problem}.") from None
    if grid.zero_point:
        return GridForm(zero_point=True)
    first = {bits: first_level(table) for bits, table in tables.items()}
    if None in first.values():
        return GridForm(counts={bits: len(table) for bits, table in tables.items()})
    return GridForm(first={bits: level for bits, level in first.items() if level is not None})


def first_level(levels: NDArray[np.floating]) -> float | None:
    """The first level if it is a multiple of 1/2 and the others follow in steps of 1, else None."""
    first = float(levels[0])
    affine = (2 * first).is_integer() and bool(np.all(np.diff(levels) == 1))
    return first if affine else None


def part_shapes(info: TensorInfo, plan: TensorPlan, form: Form | None = None) -> Parts:
    """Type and shape of every part of a tensor, by name, in the order of the format description.

    Args:
        info: the tensor.
        plan: what becomes of it.
        form: its grid, by default that of the grid the plan names; or how long the coded parts are, by default as
            short as they can be.

    Raises:
        PlanError: the plan does not fit the tensor.
    """
    if math.prod(max(1, size) for size in info.shape) >= MOST_WEIGHTS or min(info.shape, default=1) < 0:
        raise PlanError(f"The tensor {info.name!r} cannot have the shape {list(info.shape)}.")
    if plan.method == "cast":
        if plan.dtype not in CAST_DTYPES:
            raise PlanError(
                f"The tensor {info.name!r} cannot be cast to {plan.dtype!r}; it takes {', '.join(CAST_DTYPES)}."
            )
        return {"data": (plan.dtype, info.shape)}
    rows, columns = _checked_matrix(info)
    if plan.method == "lattice":
        _check_lattice(info, plan)
        # A codebook comes to half a byte or so for every row and column.
        coded = form if isinstance(form, CodedForm) else CodedForm(0, (rows + columns) // 2)
        return {
            "codes": ("uint8", (coded.codes,)),
            "row_scales": ("uint8", (rows,)),
            "codebook": ("uint8", (coded.codebook,)),
        }
    if plan.method == "compand":
        _check_compand(info, plan)
        return _companded_parts(plan, rows, columns, form.codes if isinstance(form, CodedForm) else 0)
    if plan.method == "sparse":
        return _sparse_parts(info, plan, form if isinstance(form, SparseForm) else None)
    if plan.method == "factors":
        return _factor_shapes(info, plan, form)
    _check_quantize(info, plan, rows)
    if form is not None and not isinstance(form, GridForm):
        raise PlanError(f"The tensor {info.name!r} is planned to be quantized, not coded.")
    groups = -(-columns // plan.group)
    form = form or grid_form(plan)
    tables: Parts = {f"levels.{bits}": ("float32", (count,)) for bits, count in sorted(form.counts.items())}
    if plan.storage in STORAGES:
        _check_tiles(info, plan, form)
        return {
            "tiles": ("uint8", (tile_bytes(plan.runs, columns),)),
            "row_scales": ("bfloat16", (rows,)),
            "scale_codes": ("uint8", (scale_code_bytes(plan.runs, groups, plan.scale_bits),)),
            **tables,
            **_column_parts(plan, rows, columns),
        }
    codes = sum(packed_bytes(run.rows * columns, run.bits) for run in plan.runs)
    parts: Parts = {"codes": ("uint8", (codes,))}
    if plan.scale_bits == 16:
        parts["scales"] = ("bfloat16", (rows, groups))
    else:
        parts["row_scales"] = ("bfloat16", (rows,))
        parts["scale_codes"] = ("uint8", (packed_bytes(rows * groups, plan.scale_bits),))
    if form.zero_point:
        parts["zeros"] = ("uint8", (sum(packed_bytes(run.rows * groups, run.bits) for run in plan.runs),))
    return parts | tables | _column_parts(plan, rows, columns)


def scales_columns(plan: TensorPlan) -> bool:
    """Whether reading multiplies every column by a stored factor."""
    return plan.basis.get("name") == "columns"


def _column_parts(plan: TensorPlan, rows: int, columns: int) -> Parts:
    """A bit a column says which are outliers, whose values follow; and the factors of columns."""
    parts: Parts = {}
    if plan.outliers:
        parts = {
            "outlier_mask": ("uint8", (packed_bytes(columns, 1),)),
            "outliers": ("float16", (rows, plan.outliers)),
        }
    return parts | ({"column_scales": ("bfloat16", (columns,))} if scales_columns(plan) else {})


def _companded_parts(plan: TensorPlan, rows: int, columns: int, codes: int) -> Parts:
    count = cluster_count(rows, plan.cluster)
    return {
        "codes": ("uint8", (codes,)),
        "depths": ("uint8", (packed_bytes(count * columns, DEPTH_BITS),)),
        "scales": ("bfloat16", (count, columns)),
        "centres": ("bfloat16", (count, columns)),
        "clusters": ("uint8", (packed_bytes(rows, cluster_bits(count)),)),
    }


def cluster_count(rows: int, size: int) -> int:
    """How many clusters of about `size` rows there are."""
    return min(MOST_CLUSTERS, max(1, (2 * rows + size) // (2 * size)))


def cluster_bits(count: int) -> int:
    """Bits that say which of the clusters a row is in."""
    return max(1, (count - 1).bit_length())


def _sparse_parts(info: TensorInfo, plan: TensorPlan, form: SparseForm | None) -> Parts:
    positions = positions_of(info, plan) if form is None else form.positions
    parts: Parts = {"positions": ("uint8", (positions.nbytes,))}
    if plan.basis or plan.outliers or plan.storage != "rows":
        raise PlanError(f"The tensor {info.name!r} is sparse, so it has no other basis, outliers or storage than rows.")
    if plan.grid:
        return parts | part_shapes(compact_info(info, positions), inner_plan(plan), None if form is None else form.grid)
    if plan.dtype not in CAST_DTYPES:
        raise PlanError(f"The weights kept of {info.name!r} take {', '.join(CAST_DTYPES)}, not {plan.dtype!r}.")
    return parts | {"data": (plan.dtype, (positions.stored,))}


def factor_infos(info: TensorInfo, plan: TensorPlan) -> dict[str, TensorInfo]:
    """The matrices that stand for a tensor with the method `factors`, as tensors of their own, by name."""
    rows, columns = info.matrix_shape
    shapes = {"base": (rows, columns), "left": (rows, plan.rank), "right": (plan.rank, columns)}
    return {
        name: TensorInfo(f"{info.name}.{name}", shapes[name], "float32", info.role, "out_in") for name in plan.factors
    }


def _factor_shapes(info: TensorInfo, plan: TensorPlan, form: Form | None) -> Parts:
    _check_factors(info, plan)
    if form is not None and not isinstance(form, FactorsForm):
        raise PlanError(f"The tensor {info.name!r} is planned to be factored.")
    grids = {} if form is None else form.grids
    return {
        f"{name}.{part}": shape
        for name, factor in factor_infos(info, plan).items()
        for part, shape in part_shapes(factor, plan.factors[name], grids.get(name)).items()
    }


def _check_factors(info: TensorInfo, plan: TensorPlan) -> None:
    if not 1 <= plan.rank <= min(info.matrix_shape):
        raise PlanError(f"The rank of {info.name!r} is {plan.rank}; it takes 1 to {min(info.matrix_shape)}.")
    if missing := [name for name in ("left", "right") if name not in plan.factors]:
        raise PlanError(f"The plan of {info.name!r} does not say how its {missing[0]} factor is stored.")
    for name, factor in plan.factors.items():
        allowed = ("quantize",) if name == "base" else ("cast", "quantize")
        if factor.method not in allowed:
            raise PlanError(
                f"The {name} of {info.name!r} has the method {factor.method!r}; {' or '.join(allowed)} is right."
            )


def payload_bytes(info: TensorInfo, plan: TensorPlan, form: Form | None = None) -> int:
    """Bytes of all parts of a tensor; arguments and errors as for `part_shapes`."""
    return sum(math.prod(shape) * ITEM_BYTES[dtype] for dtype, shape in part_shapes(info, plan, form).values())


def _checked_matrix(info: TensorInfo) -> tuple[int, int]:
    if len(info.shape) != MATRIX_AXES.get(info.layout):
        raise PlanError(
            f"The tensor {info.name!r} of shape {list(info.shape)} is not a matrix, so it can only be cast."
        )
    rows, columns = info.matrix_shape
    if rows < 1 or columns < 1:
        raise PlanError(f"The tensor {info.name!r} of shape {list(info.shape)} is empty, so it can only be cast.")
    return rows, columns


def _check_lattice(info: TensorInfo, plan: TensorPlan) -> None:
    for name in ("step", "damping"):
        if not 0 < getattr(plan, name) < LARGEST_SETTING:
            raise PlanError(f"The {name} of {info.name!r} is {getattr(plan, name)}; it takes a positive number.")
    for name in ("price", "floor"):
        if not 0 <= getattr(plan, name) < LARGEST_SETTING:
            raise PlanError(f"The {name} of {info.name!r} is {getattr(plan, name)}; it takes 0 or a positive number.")


def _check_compand(info: TensorInfo, plan: TensorPlan) -> None:
    for name in ("multiplier", "rate"):
        if not 0 < getattr(plan, name) < LARGEST_SETTING:
            raise PlanError(f"The {name} of {info.name!r} is {getattr(plan, name)}; it takes a positive number.")
    for name, least in (("cluster", 1), ("sequences", 1), ("renewal", 0)):
        if not least <= getattr(plan, name) < MOST_WEIGHTS:
            raise PlanError(f"The {name} of {info.name!r} is {getattr(plan, name)}; it is at least {least}.")


def _check_quantize(info: TensorInfo, plan: TensorPlan, rows: int) -> None:
    if sum(run.rows for run in plan.runs) != rows or any(run.rows < 1 for run in plan.runs):
        raise PlanError(f"The runs of {info.name!r} do not add up to its {rows} rows.")
    if not all(1 <= run.bits <= 8 for run in plan.runs):
        raise PlanError(f"A run of {info.name!r} has a depth outside 1 to 8 bits.")
    if plan.group < 1:
        raise PlanError(f"The group of {info.name!r} is {plan.group}; it takes a whole number from 1.")
    try:
        ScaleForm.of(plan)
    except ValueError as problem:
        raise PlanError(f"The scales of {info.name!r} cannot be stored: {problem}.") from None
    if not 0 <= plan.outliers < info.matrix_shape[1]:
        raise PlanError(f"The outliers of {info.name!r} are {plan.outliers}; its columns are {info.matrix_shape[1]}.")
    if plan.basis and not _is_rotation(plan.basis) and not _is_balance(plan.basis):
        raise PlanError(
            f"The basis of {info.name!r} is {dict(plan.basis)}; it is empty, a rotation with a seed, or 'columns' "
            "with 'by'."
        )


def _check_tiles(info: TensorInfo, plan: TensorPlan, form: GridForm) -> None:
    if plan.storage == "nested" and any(is_codebook(bits, count) for bits, count in form.counts.items()):
        raise PlanError(f"The tensor {info.name!r} cannot be stored as nested with a codebook of pairs.")
    if plan.group % BLOCK or plan.scale_bits > 8 or form.zero_point:
        raise PlanError(
            f"The tensor {info.name!r} cannot be stored as {plan.storage}: that takes groups of a multiple of {BLOCK}"
            " columns, scales of at most 8 bits, and no zero points."
        )


def _is_rotation(basis: Mapping[str, Any]) -> bool:
    seed = basis.get("seed")
    return set(basis) == {"name", "seed"} and basis["name"] == "rotation" and type(seed) is int and 0 <= seed < 1 << 63


def _is_balance(basis: Mapping[str, Any]) -> bool:
    return set(basis) == {"name", "by"} and basis["name"] == "columns" and isinstance(basis["by"], Mapping)
