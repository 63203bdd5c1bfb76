"""choose: Statistics -> Plan. Measures what every part of the model loses at every depth and spends the bytes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mediant.errors import SizeError
from mediant.kernels.part_shapes import payload_bytes
from mediant.methods.error_curves import error_curve
from mediant.methods.layer import Layer, neutral, prepare
from mediant.models.matrix_form import to_matrix
from mediant.models.weights import WeightReader
from mediant.planning.rate_distortion import Allocation, Unit, allocate, merged
from mediant.planning.recipe import Recipe
from mediant.planning.same_everywhere import allocate_same
from mediant.progress import SILENT, Progress
from mediant.statistics.calibration import compute_alone
from mediant.statistics.hessian import Hessians
from mediant.values import Array, LayerStatistics, Model, Plan, Run, Statistics, TensorInfo, TensorPlan
from mediant.workers import ordered

QUANTIZED_ROLES = ("linear", "embedding", "head", "expert")
# An embedding is cut into runs of rows that may differ in depth; rare tokens stand late in most vocabularies.
EMBEDDING_RUNS = 16
# Below this many weights a matrix is not worth its own scales and table entries.
SMALLEST_MATRIX = 1024
ATTEMPTS = 12

# What a plan costs beside the tensors' payload: configuration, tokenizer, card, manifest and headers.
Overhead = Callable[[Plan], int]


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
    known = [t for t in targets if statistics is not None and t.name in statistics.layers]
    unknown = [t for t in targets if t not in known]
    plan = recipe.tensor_plan(())
    with WeightReader(model) as weights:
        zeroing: list[float] = []

        def jobs() -> Iterator[tuple[TensorInfo, Array, LayerStatistics]]:
            for info in known + unknown:
                matrix = to_matrix(weights.read(info.name), info)
                local = statistics.layers[info.name] if statistics and info in known else None
                if local is None:
                    local = neutral(matrix, float(np.median(zeroing)) if zeroing else 1.0)
                else:
                    zeroing.append(prepare(matrix, TensorPlan("quantize"), local).loss(np.zeros_like(matrix)))
                yield info, matrix, local

        def curves(job: tuple[TensorInfo, Array, LayerStatistics]) -> tuple[str, list[Unit]]:
            info, matrix, local = job
            layer = prepare(matrix, plan, local, None if hessians is None else hessians.of(info.name))
            return info.name, [_unit(info, layer.rows(rows), recipe) for rows in _row_runs(info)]

        work = ordered(curves, jobs(), compute_alone)
        units = dict(progress.track(work, "Measuring error curves", len(targets)))
    return [unit for info in targets for unit in units[info.name]]


def _row_runs(info: TensorInfo) -> list[slice]:
    rows = info.matrix_shape[0]
    count = min(EMBEDDING_RUNS, rows) if info.role in ("embedding", "head") else 1
    edges = np.linspace(0, rows, count + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def _unit(info: TensorInfo, layer: Layer, recipe: Recipe) -> Unit:
    rows, columns = layer.matrix.shape
    alone = TensorInfo(info.name, (rows, columns), "float32", info.role, "out_in")
    losses = error_curve(layer, recipe.tensor_plan(()), recipe.depths)
    sizes = {b: payload_bytes(alone, recipe.tensor_plan((Run(rows, b),))) for b in recipe.depths}
    return Unit(info.name, rows, columns, sizes, losses)


@dataclass(frozen=True)
class Sizing:
    """Spends a byte target: a plan whose folder has at most `target` bytes, everything counted."""

    model: Model
    recipe: Recipe
    units: Sequence[Unit]
    overhead: Overhead
    seed: int

    def plan(self, target: int) -> Plan:
        """The plan of least predicted loss within `target` bytes.

        Raises:
            SizeError: the target is below the smallest or far above the largest feasible size.
        """
        budget, best = self._first_budget(target), None
        for _ in range(ATTEMPTS):
            plan = self._allocated(budget, target)
            size = self.folder_bytes(plan)
            if size <= target and (best is None or size > self.folder_bytes(best)):
                best = plan
            if size <= target and target - size <= target // 2000:
                break
            # The manifest's length depends on the plan by a few bytes: aim again by what was missed.
            step = target - size
            budget += step if step < 0 else step // 2
        if best is None:
            raise SizeError(f"No plan of at most {target} bytes was found; try a slightly different size.")
        return best

    def range(self) -> tuple[int, int]:
        """Bytes of the smallest and of the largest folder on offer."""
        lowest, highest = (self._everywhere(extreme) for extreme in (min, max))
        return self.folder_bytes(lowest), self.folder_bytes(highest)

    def folder_bytes(self, plan: Plan) -> int:
        """Bytes of the folder that this plan leads to, exactly."""
        return self.overhead(plan) + sum(payload_bytes(t, plan.tensors[t.name]) for t in self.model.tensors)

    def _first_budget(self, target: int) -> int:
        payload = sum(min(u.sizes.values()) for u in self.units)
        return target - self.folder_bytes(self._everywhere(min)) + payload

    def _everywhere(self, extreme: Callable[[Iterable[int]], int]) -> Plan:
        runs: dict[str, list[Run]] = {}
        for unit in self.units:
            runs.setdefault(unit.tensor, []).append(Run(unit.rows, extreme(unit.sizes)))
        return self._plan(Allocation({n: merged(r) for n, r in runs.items()}, 0, 0.0), 0)

    def _allocated(self, budget: int, target: int) -> Plan:
        spend = allocate_same if self.recipe.allocation == "same_everywhere" else allocate
        return self._plan(spend(self.units, budget, target - budget), target)

    def _plan(self, allocation: Allocation, target: int) -> Plan:
        cast = TensorPlan("cast", dtype=self.recipe.keep)
        tensors = {t.name: cast for t in self.model.tensors}
        for info in self.model.tensors:
            if info.name in allocation.runs:
                tensors[info.name] = self.recipe.tensor_plan(allocation.runs[info.name])
            elif self.recipe.bias_correction and info.role == "bias":
                tensors[info.name] = dataclasses.replace(cast, bias_correction=True)
        return Plan(
            model_fingerprint=self.model.fingerprint,
            recipe=self.recipe.name,
            seed=self.seed,
            tensors=tensors,
            target_bytes=target,
            predicted_loss=allocation.loss,
        )


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
        )
        for u in json.loads(data)
    ]
