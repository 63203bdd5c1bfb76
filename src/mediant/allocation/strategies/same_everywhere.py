"""The same bit width for every unit, as far as the budget allows: the plain baseline.

The greatest bit width that fits is taken everywhere; what is left raises units by one bit width in the order of the
model until the budget is used, so that any size can be hit. No loss is looked at, and nothing is measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from mediant.allocation import Job
from mediant.allocation.knapsack import Allocation, Unit, allocate, predicted_loss
from mediant.allocation.operations import Operations, rounding_all
from mediant.allocation.quantized import check_pattern, check_quantized
from mediant.allocation.sizing import Sizing
from mediant.allocation.units import outline
from mediant.planning.plan import Plan
from mediant.planning.recipe import Recipe


@dataclass(frozen=True)
class SameEverywhere:
    """One bit width, or two neighbouring ones."""

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuses a recipe that does not say how to quantize."""
        check_pattern(recipe)
        check_quantized(recipe)

    def needs(self, recipe: Recipe) -> frozenset[str]:
        """Names what the methods of the recipe need."""
        return recipe.needs

    def outline(self, job: Job) -> Plan:
        """Returns the plan with the smallest bit width everywhere."""
        return _sizing(job).smallest()

    def check(self, job: Job, target: int) -> None:
        """Refuses a target that no choice of bit widths meets."""
        _sizing(job).check(target)

    def range(self, job: Job) -> tuple[int, int]:
        """Returns the bytes with the smallest and with the greatest bit width everywhere."""
        return _sizing(job).range()

    def plan(self, job: Job, target: int) -> Plan:
        """Returns the plan of the greatest bit width that fits; it predicts no loss."""
        return _sizing(job).plan(target)

    def operations(self, job: Job) -> Operations:
        """Counts rounding all rows once."""
        return rounding_all(job.model, job.recipe)


def _sizing(job: Job) -> Sizing:
    units = outline(job.model, job.recipe)
    return Sizing(job.model, job.recipe, units, job.folder_bytes, job.seed, allocate_same, measured=False)


def allocate_same(units: Sequence[Unit], budget: int, fixed: int = 0) -> Allocation:
    """Bit widths of all units within `budget` bytes; see `rate_distortion.allocate` for arguments and errors.

    It is the allocation whose loss falls by the number of weights with every bit, less with every further one, and
    a little less with every later unit.
    """
    order = {id(u): i for i, u in enumerate(units)}
    plain = [
        dataclasses.replace(
            u,
            losses={b: u.rows * u.columns * 4.0**-b * (1 + 1e-6 * (len(units) - order[id(u)])) for b in u.sizes},
        )
        for u in units
    ]
    allocation = allocate(plain, budget, fixed)
    return dataclasses.replace(allocation, loss=predicted_loss(units, allocation.runs))


METHOD = SameEverywhere
