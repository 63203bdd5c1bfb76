"""choose, for entropy coding: the one Delta (forms/lattice/encode.py) with which the whole folder meets a byte target.

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
from typing import Any

import numpy as np

from mediant.allocation.whole_plan import whole_plan
from mediant.forms.lattice.encode import rate, spread
from mediant.forms.lattice.form import EntropyCoded
from mediant.methods.stack import prepare_any
from mediant.models.weights import WeightReader
from mediant.pipeline.choose import Matrix, matrices, quantizable
from mediant.planning.plan import Plan
from mediant.planning.recipe import Recipe
from mediant.planning.size import check_range
from mediant.progress import SILENT, Progress
from mediant.statistics.hessian import Hessians
from mediant.values import Model, Statistics
from mediant.workers import AHEAD, compute_alone, ordered

RECIPE = "denominator"
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
        """Predicted loss in nats per token."""
        return float(np.interp(delta, self.deltas, self.losses))


def measure(model: Model, statistics: Statistics, hessians: Hessians, progress: Progress = SILENT) -> list[Curve]:
    """The curves of all matrices that quantization touches."""

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
    """The inverse of `curves_to_json`."""
    found = [Curve(**c) for c in json.loads(data)]
    return [dataclasses.replace(c, deltas=tuple(c.deltas), bits=tuple(c.bits), losses=tuple(c.losses)) for c in found]


def denominator_plan(
    model: Model, steps: Mapping[str, float], keep: Any, seed: int, target: int | None, loss: float | None = None
) -> Plan:
    """The plan that codes the tensors in `steps` with these steps, and casts all others to `keep`."""
    recipe = Recipe(RECIPE, "", keep=keep)
    coded = {name: EntropyCoded(step=step) for name, step in steps.items()}
    return whole_plan(model, recipe, coded, seed, target, loss)


@dataclass(frozen=True)
class OneDenominator:
    """Finds the Delta whose folder keeps to a target in bytes, everything counted.

    `folder_bytes` codes the whole model by a plan and says how many bytes its folder has; `least_bytes` only counts
    what does not depend on the codes; `drop` is told of plans that are not taken. What is not coded is cast to `keep`.
    """

    model: Model
    curves: Sequence[Curve]
    folder_bytes: Callable[[Plan], int]
    least_bytes: Callable[[Plan], int]
    drop: Callable[[Plan], None]
    seed: int
    keep: str

    def plan(self, target: int) -> Plan:
        """The plan of a folder of at most `target` bytes, and of hardly less.

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
        """The plan with Delta = 2^delta, in six digits."""
        steps = {c.tensor: float(f"{c.scale * 2**delta:.6g}") for c in self.curves}
        return denominator_plan(
            self.model, steps, self.keep, self.seed, target, sum(c.loss_at(delta) for c in self.curves)
        )

    def _coded_bytes(self, delta: float) -> float:
        return sum(c.bits_at(delta) for c in self.curves) / 8

    def _finest(self) -> float:
        """Below every Delta measured, numbers of at most `MOST_BITS` bits."""
        return min(c.deltas[0] - max(0.0, MOST_BITS - c.bits[0] / c.weights) for c in self.curves)

    def _coarsest(self) -> float:
        return max(c.deltas[-1] for c in self.curves) + MARGIN

    def _solved(self, wanted: float, low: float, high: float) -> float:
        """The Delta between two at which the curves give so many bytes, or the nearer of them."""
        a, b = low, high
        for _ in range(BISECTIONS):
            middle = (a + b) / 2
            a, b = (middle, b) if self._coded_bytes(middle) > wanted else (a, middle)
        return b
