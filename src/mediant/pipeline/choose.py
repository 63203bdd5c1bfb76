"""choose, first half: measures what every part of the model loses at every depth. `sizing` then spends the bytes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from mediant.kernels.tiles import OCTET
from mediant.methods.layer import Layer, neutral
from mediant.methods.stack import prepare_any
from mediant.models.matrix_form import to_matrix
from mediant.models.weights import WeightReader
from mediant.pipeline.error_curves import error_curve
from mediant.planning.rate_distortion import Unit
from mediant.planning.recipe import Recipe
from mediant.progress import SILENT, Progress
from mediant.statistics.hessian import Hessians
from mediant.values import Array, LayerStatistics, Model, RowSpan, Statistics, TensorInfo
from mediant.workers import AHEAD, compute_alone, ordered

QUANTIZED_ROLES = ("linear", "embedding", "head", "expert")
# An embedding is cut into runs of rows that may differ in depth; rare tokens stand late in most vocabularies.
EMBEDDING_RUNS = 16
# A stack of experts may have so many depths; more experts than that share them with their neighbours.
EXPERT_RUNS = 16
# Below this many weights a matrix is not worth its own scales and table entries.
SMALLEST_MATRIX = 1024


def quantizable(model: Model) -> list[TensorInfo]:
    """The tensors that quantization touches, in model order; all others are cast."""
    return [t for t in model.tensors if t.role in QUANTIZED_ROLES and t.layout != "none" and t.size >= SMALLEST_MATRIX]


def measure(
    model: Model,
    statistics: Statistics | None,
    recipe: Recipe,
    hessians: Hessians | None = None,
    progress: Progress = SILENT,
) -> list[Unit]:
    """Units of all quantizable tensors with bytes and predicted loss at each depth of the recipe."""
    targets = quantizable(model)

    def curves(matrix: Matrix) -> tuple[str, list[Unit]]:
        plan = recipe.tensor_plan((), matrix.info.role)
        hessian = None if hessians is None else hessians.of(matrix.info.name)
        layer = prepare_any(matrix.values, plan.rotation, matrix.statistics, hessian)
        return matrix.info.name, [_unit(matrix.info, layer.rows(rows), recipe) for rows in _row_runs(matrix.info)]

    with WeightReader(model) as weights:
        work = ordered(curves, matrices(model, statistics, weights), compute_alone, AHEAD)
        units = dict(progress.track(work, "Measuring error curves", len(targets)))
    return [unit for info in targets for unit in units[info.name]]


@dataclass(frozen=True)
class Matrix:
    """A tensor to be quantized as a matrix, and its sensitivities; those calibration did not see are neutral.

    `zeroing` is what setting a matrix that calibration did not see to zero is taken to lose, in nats per token: the
    median of the others; 1 for a matrix that it saw.
    """

    info: TensorInfo
    weights: WeightReader
    statistics: LayerStatistics
    zeroing: float = 1.0

    @cached_property
    def values(self) -> Array:
        """The matrix itself, read by the thread that asks first."""
        return to_matrix(self.weights.read(self.info.name), self.info)


def matrices(model: Model, statistics: Statistics | None, weights: WeightReader) -> Iterator[Matrix]:
    """The matrices that quantization touches, in model order, but first those that calibration saw."""
    seen = {} if statistics is None else statistics.layers
    infos = sorted(quantizable(model), key=lambda info: info.name not in seen)
    losses, all_seen = [], all(info.name in seen for info in infos)
    for info in infos:
        if info.name in seen:
            matrix = Matrix(info, weights, seen[info.name])
            if not all_seen:
                losses.append(prepare_any(matrix.values, None, matrix.statistics).zeroing)
            yield Matrix(info, weights, seen[info.name])
        else:
            zeroing = float(np.median(losses)) if losses else 1.0
            values = to_matrix(weights.read(info.name), info)
            yield Matrix(info, weights, neutral(values, zeroing), zeroing)


def outline(model: Model, recipe: Recipe) -> list[Unit]:
    """The units that `measure` gives, with their bytes, but before anything is measured: every loss is 0."""
    units = []
    for info in quantizable(model):
        columns = info.matrix_shape[1]
        for rows in _row_runs(info):
            sizes = _sizes(info, rows.stop - rows.start, columns, recipe)
            losses = dict.fromkeys(recipe.depths, 0.0)
            count = rows.stop - rows.start
            wide, together = recipe.tensor_plan((), info.role).stored_row(_part(info, count, columns))
            units.append(Unit(info.name, count, wide, sizes, losses, together))
    return units


def _row_runs(info: TensorInfo) -> list[slice]:
    rows = info.matrix_shape[0]
    if info.role == "expert":
        experts = info.shape[0]
        inner = np.linspace(0, experts, min(EXPERT_RUNS, experts) + 1)[1:-1].astype(int) * (rows // experts)
    else:
        count = min(EMBEDDING_RUNS, rows) if info.role in ("embedding", "head") else 1
        inner = np.unique(np.linspace(0, rows, count + 1)[1:-1].astype(int) // OCTET * OCTET)
    edges = [0, *inner[inner > 0].tolist(), rows]
    return [slice(a, b) for a, b in pairwise(edges)]


def _unit(info: TensorInfo, layer: Layer, recipe: Recipe) -> Unit:
    rows, columns = layer.matrix.shape
    plan = recipe.tensor_plan((), info.role)
    losses = error_curve(layer, plan, recipe.depths)
    wide, together = plan.stored_row(_part(info, rows, columns))
    return Unit(info.name, rows, wide, _sizes(info, rows, columns, recipe), losses, together)


def _part(info: TensorInfo, rows: int, columns: int) -> TensorInfo:
    """Some rows of a matrix as a tensor of their own."""
    return TensorInfo(info.name, (rows, columns), "float32", info.role, "out_in")


def _sizes(info: TensorInfo, rows: int, columns: int, recipe: Recipe) -> dict[int, int]:
    """Bytes at each depth. What runs of one depth share, their table of levels, is split between all runs."""
    alone = TensorInfo(info.name, (rows, columns), "float32", info.role, "out_in")
    sizes = {}
    for bits in recipe.depths:
        plan = recipe.tensor_plan((RowSpan(rows, bits),), info.role)
        table = plan.shared_bytes()
        sizes[bits] = plan.nbytes(alone) - table + -(-table // len(_row_runs(info)))
    return sizes


def units_to_json(units: Sequence[Unit]) -> bytes:
    """Measured units, to be kept in a workspace."""
    return json.dumps([dataclasses.asdict(u) for u in units]).encode()


def units_from_json(data: bytes) -> list[Unit]:
    """The inverse of `units_to_json`."""

    def by_depth(table: Mapping[str, float]) -> dict[int, float]:
        return {int(b): v for b, v in table.items()}

    return [
        Unit(
            u["tensor"],
            u["rows"],
            u["columns"],
            {b: int(v) for b, v in by_depth(u["sizes"]).items()},
            by_depth(u["losses"]),
            u["together"],
        )
        for u in json.loads(data)
    ]
