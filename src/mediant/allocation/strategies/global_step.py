"""Entropy coding: the one Delta (forms/entropy_coded/encode.py) with which the whole folder meets a target in bytes.

No formula tells how long coded numbers are, so some rows of every matrix are coded at several Deltas first; their
curves say where to begin. Then the whole model is coded, and Delta corrected by what was missed, until the folder fits:
bytes fall steadily as Delta grows, by a bit a weight for every octave where there are many bits.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mediant.allocation import Job
from mediant.allocation.layers import Matrix, matrices, quantizable
from mediant.allocation.operations import Operations
from mediant.allocation.whole_plan import whole_plan
from mediant.forms.entropy_coded.encode import rate, spread
from mediant.forms.entropy_coded.form import EntropyCoded
from mediant.methods.stack import prepare_any
from mediant.models.weights import WeightReader
from mediant.planning.plan import Plan
from mediant.planning.recipe import Recipe
from mediant.planning.size import check_range
from mediant.progress import SILENT, Progress
from mediant.statistics.hessian import Hessians
from mediant.values import Model, Statistics
from mediant.workers import AHEAD, compute_alone, ordered

# Octaves of Delta above that which makes a number's spread 1.
OFFSETS = (-9.0, -6.0, -4.5, -3.5, -2.5, -1.75, -1.0, -0.25, 0.5, 1.5, 3.0, 4.5)
# Curves only say where to begin: the search corrects them by folders that are really coded.
SAMPLED_ROWS = 24
# Of a target: what a trial aims at, and from where a folder is not improved any more.
AIM, CLOSE = 0.9995, 0.999
TRIALS = 24
# Then the range is halved.
AIMED_TRIALS = 6
# Numbers of more bits than this would not fit.
MOST_BITS = 12.0
# Octaves beyond the largest Delta measured, where hardly a number is not 0.
MARGIN = 4.0
BISECTIONS = 60
# Stands for a target that is not known, in as many digits as any has.
LARGEST = 10**12 - 1
# Of the estimate: rates at several steps, and coding the whole model more than once.
RATES, CODINGS = 12.0, 2.0


@dataclass(frozen=True)
class Curve:
    """One matrix: bits and predicted loss at some Deltas, given as ascending binary logarithms.

    `scale` times Delta is the step in the matrix's plan: not 1 where calibration did not see it, since `approximate`
    then knows nothing of its weight among the others.
    """

    tensor: str
    weights: int
    scale: float
    deltas: tuple[float, ...]
    bits: tuple[float, ...]
    losses: tuple[float, ...]

    def bits_at(self, delta: float) -> float:
        """Bits, with one more a weight for every octave below the first Delta."""
        return float(np.interp(delta, self.deltas, self.bits)) + self.weights * max(0.0, self.deltas[0] - delta)

    def loss_at(self, delta: float) -> float:
        """Returns the predicted loss in nats per token."""
        return float(np.interp(delta, self.deltas, self.losses))


def measure(model: Model, statistics: Statistics, hessians: Hessians, progress: Progress = SILENT) -> list[Curve]:
    """Returns the curves of all matrices that quantization touches."""

    def curve(matrix: Matrix) -> Curve:
        return _curve(matrix, hessians)

    with WeightReader(model) as weights:
        work = ordered(curve, matrices(model, statistics, weights), compute_alone, AHEAD)
        return list(progress.track(work, "Measuring rates", len(quantizable(model))))


def _curve(matrix: Matrix, hessians: Hessians) -> Curve:
    plan = EntropyCoded(step=1.0)
    layer = prepare_any(matrix.values, None, matrix.statistics, hessians.of(matrix.info.name))
    rows, columns = layer.matrix.shape
    sample = layer.rows(np.unique(np.linspace(0, rows - 1, min(rows, SAMPLED_ROWS)).round().astype(int)))
    center, share = math.log2(max(spread(sample, plan), 1e-30)), rows / len(sample.matrix)
    deltas = tuple(center + offset for offset in OFFSETS)
    rates = [rate(sample, dataclasses.replace(plan, step=2**delta)) for delta in deltas]
    return Curve(
        matrix.info.name,
        rows * columns,
        1 / math.sqrt(matrix.zeroing) if matrix.zeroing > 0 else 1.0,
        deltas,
        tuple(share * r.bits for r in rates),
        tuple(share * r.loss for r in rates),
    )


def curves_to_json(curves: Sequence[Curve]) -> bytes:
    """Measured curves, to be kept in a workspace."""
    return json.dumps([dataclasses.asdict(c) for c in curves]).encode()


def curves_from_json(data: bytes) -> list[Curve]:
    """Returns the inverse of `curves_to_json`."""
    found = [Curve(**c) for c in json.loads(data)]
    return [dataclasses.replace(c, deltas=tuple(c.deltas), bits=tuple(c.bits), losses=tuple(c.losses)) for c in found]


@dataclass(frozen=True)
class GlobalStep:
    """One step for the whole model."""

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuses a recipe that says how to quantize, or trains codes."""
        if recipe.grid or recipe.scale or recipe.rounding or recipe.bit_widths or recipe.pattern:
            raise ValueError("a grid, a scale, a rounding, bit widths and a pattern do not go with entropy coding")

    def needs(self, recipe: Recipe) -> frozenset[str]:
        """Names the Hessian, which numbers are chosen by."""
        return frozenset({"hessian"})

    def outline(self, job: Job) -> Plan:
        """Returns a plan with the step 1 everywhere."""
        return _plan(job, {info.name: 1.0 for info in quantizable(job.model)}, 0)

    def check(self, job: Job, target: int) -> None:
        """Refuses a target that is too small even for what is beside the coded numbers."""
        check_range(target, job.least_bytes(dataclasses.replace(self.outline(job), target_bytes=target)), target)

    def range(self, job: Job) -> tuple[int, int]:
        """Returns the bytes at the coarsest and at the finest step; the whole model is coded for it."""
        return _search(job).range()

    def plan(self, job: Job, target: int) -> Plan:
        """Returns the plan with the step that meets the target."""
        return _search(job).plan(target)

    def operations(self, job: Job) -> Operations:
        """Counts coding some rows at several steps, and the whole model a few times."""
        shapes = [info.matrix_shape for info in quantizable(job.model)]
        return Operations(
            factors=sum(2.0 * columns**3 for _, columns in shapes),
            rounding=sum(columns**2 * (RATES * SAMPLED_ROWS + CODINGS * rows) for rows, columns in shapes),
        )


def _search(job: Job) -> StepSearch:
    def compute() -> bytes:
        return curves_to_json(measure(job.model, job.statistics(), job.hessians(), job.progress))

    curves = curves_from_json(job.keep("rates", compute))

    def planned(steps: Mapping[str, float], target: int, loss: float) -> Plan:
        return _plan(job, steps, target, loss)

    return StepSearch(curves, planned, job.folder_bytes, job.least_bytes, job.drop)


def _plan(job: Job, steps: Mapping[str, float], target: int, loss: float | None = None) -> Plan:
    coded = {name: EntropyCoded(step=step) for name, step in steps.items()}
    return whole_plan(job.model, job.recipe, coded, job.seed, target, loss)


@dataclass(frozen=True)
class StepSearch:
    """Finds the Delta whose folder keeps to a target in bytes, everything counted.

    `planned` makes the plan of tensors' steps for a target with a predicted loss. `folder_bytes` codes the whole model
    by a plan and says how many bytes its folder has; `least_bytes` only counts what does not depend on the codes;
    `drop` is told of plans that are not taken.
    """

    curves: Sequence[Curve]
    planned: Callable[[Mapping[str, float], int, float], Plan]
    folder_bytes: Callable[[Plan], int]
    least_bytes: Callable[[Plan], int]
    drop: Callable[[Plan], None]

    def range(self) -> tuple[int, int]:
        """Returns the bytes of the folders at the coarsest and at the finest Delta."""
        found = []
        for delta in (self._coarsest(), self._finest()):
            plan = self._at(delta, LARGEST)
            found.append(self.folder_bytes(plan))
            self.drop(plan)
        return found[0], found[1]

    def plan(self, target: int) -> Plan:
        """Returns the plan of a folder of at most `target` bytes, and of hardly less.

        Raises:
            SizeError: the target is below the smallest or far above the largest feasible size.
        """
        low, high = self._finest(), self._coarsest()
        beside = self.least_bytes(self._at(high, target))
        best: Plan | None = None
        size, missed = 0, 0.0
        for trial in range(TRIALS):
            aimed = self._solved(AIM * target - beside - missed, low, high)
            delta = aimed if trial < AIMED_TRIALS else (low + high) / 2
            plan = self._at(delta, target)
            size = self.folder_bytes(plan)
            missed = size - beside - self._coded_bytes(delta)
            if size > target:
                self.drop(plan)
                check_range(target, size if delta == high else 0, size)
                low = delta
                continue
            if best is not None:
                self.drop(best)
            best = plan
            if size >= CLOSE * target or delta == low:
                break
            high = delta
        if best is None:
            best = self._at(high, target)
            check_range(target, self.folder_bytes(best), target)
        check_range(target, 0, self.folder_bytes(best))
        return best

    def _at(self, delta: float, target: int) -> Plan:
        """Returns the plan with Delta = 2^delta, in six digits."""
        steps = {c.tensor: float(f"{c.scale * 2**delta:.6g}") for c in self.curves}
        return self.planned(steps, target, sum(c.loss_at(delta) for c in self.curves))

    def _coded_bytes(self, delta: float) -> float:
        return sum(c.bits_at(delta) for c in self.curves) / 8

    def _finest(self) -> float:
        """Below every Delta measured, numbers of at most `MOST_BITS` bits."""
        return min(c.deltas[0] - max(0.0, MOST_BITS - c.bits[0] / c.weights) for c in self.curves)

    def _coarsest(self) -> float:
        return max(c.deltas[-1] for c in self.curves) + MARGIN

    def _solved(self, wanted: float, low: float, high: float) -> float:
        """Returns the Delta between two at which the curves give so many bytes, or the nearer of them."""
        a, b = low, high
        for _ in range(BISECTIONS):
            middle = (a + b) / 2
            a, b = (middle, b) if self._coded_bytes(middle) > wanted else (a, middle)
        return b


METHOD = GlobalStep
