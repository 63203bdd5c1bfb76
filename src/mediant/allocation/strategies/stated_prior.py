"""Weights alone: the error of some rows at every bit width, times what a matrix of its kind is taken to be worth.

Minimises sum_u v_u e_u(b_u), where e_u(b) is the squared error of a unit's sampled rows at bit width b as a share of
their own square, and v_u the unit's part of what setting its whole matrix to zero is taken to lose: `nats`, which the
recipe states by the last part of a module's name (`k_proj`) or by the role of the tensor (`linear`). The knapsack over
the units is that of `rate_distortion`, and keeps the size to the byte. No text is read, so the sum is no forecast of
KL, and the plan predicts no loss.

Without calibration nothing tells which layer of a kind matters more; what the kinds are worth was measured elsewhere.

Cost: reading and rounding `rows` rows of every unit at every bit width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mediant import files
from mediant.allocation import Job
from mediant.allocation.knapsack import Unit
from mediant.allocation.layers import quantizable
from mediant.allocation.operations import Operations, rounding_all, rounding_some
from mediant.allocation.quantized import check_pattern, check_quantized
from mediant.allocation.sizing import Sizing
from mediant.allocation.units import outline, units_from_json, units_to_json
from mediant.forms.encoding import trial_losses
from mediant.methods.layer import prepare
from mediant.models.weights import WeightReader
from mediant.planning.plan import Plan
from mediant.planning.recipe import Recipe
from mediant.values import Array, RowSpan, TensorInfo
from mediant.workers import AHEAD, compute_alone, ordered

# Of a kind of matrix that the recipe does not name.
USUAL_NATS = 1.0


@dataclass(frozen=True)
class StatedPrior:
    """Nats that setting a matrix to zero is taken to lose, by kind, and how many rows of a unit are rounded."""

    nats: Mapping[str, float] = field(default_factory=dict)
    rows: int = 16

    def __post_init__(self) -> None:
        if any(type(n) not in (int, float) or not 0 < n < 1e6 for n in self.nats.values()):
            raise ValueError("what a kind of matrix is worth is a positive number of nats")
        if self.rows < 1:
            raise ValueError("at least one row of every unit is rounded")

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuses a recipe that does not say how to quantize, or whose rounding needs calibration."""
        check_pattern(recipe)
        check_quantized(recipe)
        if recipe.needs:
            raise ValueError("a prior that is stated goes with a rounding that needs no calibration")

    def needs(self, recipe: Recipe) -> frozenset[str]:
        """Names nothing."""
        return frozenset()

    def outline(self, job: Job) -> Plan:
        """Returns the plan with the smallest bit width everywhere."""
        return _sizing(job, outline(job.model, job.recipe)).smallest()

    def check(self, job: Job, target: int) -> None:
        """Refuses a target that no choice of bit widths meets."""
        _sizing(job, outline(job.model, job.recipe)).check(target)

    def range(self, job: Job) -> tuple[int, int]:
        """Returns the bytes with the smallest and with the greatest bit width everywhere."""
        return _sizing(job, outline(job.model, job.recipe)).range()

    def plan(self, job: Job, target: int) -> Plan:
        """Returns the plan of least weighted error; it predicts no loss."""
        name = f"units-{files.sha256(str(job.recipe).encode())[:16]}"
        units = units_from_json(job.keep(name, lambda: units_to_json(self._measured(job))))
        return dataclasses.replace(_sizing(job, units).plan(target), predicted_loss=None)

    def operations(self, job: Job) -> Operations:
        """Counts rounding some rows of every unit at every bit width, and then all rows once."""
        tried = [(len(job.recipe.bit_widths) * self.rows, u.columns) for u in outline(job.model, job.recipe)]
        return rounding_all(job.model, job.recipe) + rounding_some(tried, job.recipe)

    def _measured(self, job: Job) -> list[Unit]:
        """Returns the units with their errors, from as many rows in the middle of each."""
        by_tensor: dict[str, list[Unit]] = {}
        for unit in outline(job.model, job.recipe):
            by_tensor.setdefault(unit.tensor, []).append(unit)
        targets = quantizable(job.model)
        with WeightReader(job.model) as weights:

            def measured(info: TensorInfo) -> list[Unit]:
                return self._of_tensor(info, by_tensor[info.name], job.recipe, weights)

            work = ordered(measured, targets, compute_alone, AHEAD)
            found = list(job.progress.track(work, "Measuring errors", len(targets)))
        return [unit for units in found for unit in units]

    def _of_tensor(self, info: TensorInfo, units: Sequence[Unit], recipe: Recipe, weights: WeightReader) -> list[Unit]:
        found, start = [], 0
        for unit in units:
            begin = start + max(0, unit.rows - self.rows) // 2
            sample = weights.rows(info.name, begin, min(start + unit.rows, begin + self.rows))
            value = self._value(info) * unit.rows / info.matrix_shape[0]
            found.append(dataclasses.replace(unit, losses=_errors(sample, info, recipe, value)))
            start += unit.rows
        return found

    def _value(self, info: TensorInfo) -> float:
        kind = info.module.rpartition(".")[2]
        return float(self.nats.get(kind, self.nats.get(info.role, USUAL_NATS)))


def _errors(sample: Array, info: TensorInfo, recipe: Recipe, value: float) -> dict[int, float]:
    """Returns the assumed loss at each bit width of rows that are worth `value`."""
    plan = recipe.tensor_plan((), info.role)
    layer = prepare(sample, plan.rotation, None)
    plans = {bits: plan.with_runs((RowSpan(len(sample), bits),)) for bits in recipe.bit_widths}
    zeroing = layer.zeroing
    return {bits: value * loss / zeroing if zeroing else 0.0 for bits, loss in trial_losses(layer, plans).items()}


def _sizing(job: Job, units: Sequence[Unit]) -> Sizing:
    return Sizing(job.model, job.recipe, units, job.folder_bytes, job.seed)


METHOD = StatedPrior
