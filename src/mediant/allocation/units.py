"""Parts of a model that get one bit width each, with their bytes and what they lose at every bit width on offer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from mediant.allocation.error_curves import error_curve
from mediant.allocation.knapsack import Unit
from mediant.allocation.layers import Matrix, matrices, quantizable
from mediant.kernels.tiles import PANEL
from mediant.methods.layer import Layer
from mediant.methods.stack import prepare_any
from mediant.models.weights import WeightReader
from mediant.planning.recipe import Recipe
from mediant.progress import SILENT, Progress
from mediant.statistics.hessian import Hessians
from mediant.values import Model, RowSpan, Statistics, TensorInfo
from mediant.workers import AHEAD, compute_alone, ordered

# An embedding is cut into runs of rows that may differ in bit width; rare tokens stand late in most vocabularies.
EMBEDDING_RUNS = 16
# A stack of experts may have so many bit widths; more experts than that share them with their neighbours.
EXPERT_RUNS = 16


def measure(
    model: Model,
    statistics: Statistics | None,
    recipe: Recipe,
    hessians: Hessians | None = None,
    progress: Progress = SILENT,
) -> list[Unit]:
    """Units of all quantizable tensors with bytes and predicted loss at each bit width of the recipe."""
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


def outline(model: Model, recipe: Recipe) -> list[Unit]:
    """Returns the units that `measure` gives, with their bytes, but before anything is measured: every loss is 0."""
    units = []
    for info in quantizable(model):
        columns = info.matrix_shape[1]
        for rows in _row_runs(info):
            sizes = _sizes(info, rows.stop - rows.start, columns, recipe)
            losses = dict.fromkeys(recipe.bit_widths, 0.0)
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
        inner = np.unique(np.linspace(0, rows, count + 1)[1:-1].astype(int) // PANEL * PANEL)
    edges = [0, *inner[inner > 0].tolist(), rows]
    return [slice(a, b) for a, b in pairwise(edges)]


def _unit(info: TensorInfo, layer: Layer, recipe: Recipe) -> Unit:
    rows, columns = layer.matrix.shape
    plan = recipe.tensor_plan((), info.role)
    losses = error_curve(layer, plan, recipe.bit_widths)
    wide, together = plan.stored_row(_part(info, rows, columns))
    return Unit(info.name, rows, wide, _sizes(info, rows, columns, recipe), losses, together)


def _part(info: TensorInfo, rows: int, columns: int) -> TensorInfo:
    """Returns some rows of a matrix as a tensor of their own."""
    return TensorInfo(info.name, (rows, columns), "float32", info.role, "out_in")


def _sizes(info: TensorInfo, rows: int, columns: int, recipe: Recipe) -> dict[int, int]:
    """Returns the bytes at each bit width. What runs of one bit width share, their table of levels, is split between
    all runs.
    """
    alone = TensorInfo(info.name, (rows, columns), "float32", info.role, "out_in")
    sizes = {}
    for bits in recipe.bit_widths:
        plan = recipe.tensor_plan((RowSpan(rows, bits),), info.role)
        table = plan.shared_bytes()
        sizes[bits] = plan.nbytes(alone) - table + -(-table // len(_row_runs(info)))
    return sizes


def units_to_json(units: Sequence[Unit]) -> bytes:
    """Measured units, to be kept in a workspace."""
    return json.dumps([dataclasses.asdict(u) for u in units]).encode()


def units_from_json(data: bytes) -> list[Unit]:
    """Returns the inverse of `units_to_json`."""

    def by_bit_width(table: Mapping[str, float]) -> dict[int, float]:
        return {int(b): v for b, v in table.items()}

    return [
        Unit(
            u["tensor"],
            u["rows"],
            u["columns"],
            {b: int(v) for b, v in by_bit_width(u["sizes"]).items()},
            by_bit_width(u["losses"]),
            u["together"],
        )
        for u in json.loads(data)
    ]
