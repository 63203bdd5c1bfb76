"""Least predicted loss: measured error curves of all parts of the model, and the exact knapsack over them.

Minimises the sum of predicted losses (methods/layer.py) over one bit width for each unit (allocation/units.py), so that
the whole folder has at most the target's bytes (allocation/knapsack.py, allocation/sizing.py).

Cost: rounding some rows of every unit at every bit width, and some dozen knapsacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mediant import files
from mediant.allocation import Job
from mediant.allocation.error_curves import sample_rows
from mediant.allocation.knapsack import Unit
from mediant.allocation.operations import Operations, rounding_all, rounding_some
from mediant.allocation.quantized import check_pattern, check_quantized
from mediant.allocation.sizing import Sizing
from mediant.allocation.units import measure, outline, units_from_json, units_to_json
from mediant.planning.plan import Plan
from mediant.planning.recipe import Recipe


@dataclass(frozen=True)
class RateDistortion:
    """Bit widths by rate and distortion."""

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuses a recipe that does not say how to quantize."""
        check_pattern(recipe)
        check_quantized(recipe)

    def needs(self, recipe: Recipe) -> frozenset[str]:
        """Names what the methods of the recipe need."""
        return recipe.needs

    def outline(self, job: Job) -> Plan:
        """Returns the plan with the smallest bit width everywhere."""
        return self._outlined(job).smallest()

    def check(self, job: Job, target: int) -> None:
        """Refuses a target that no choice of bit widths meets."""
        self._outlined(job).check(target)

    def range(self, job: Job) -> tuple[int, int]:
        """Returns the bytes with the smallest and with the greatest bit width everywhere."""
        return self._outlined(job).range()

    def plan(self, job: Job, target: int) -> Plan:
        """Returns the plan of least predicted loss."""

        def compute() -> bytes:
            found = measure(job.model, job.statistics(), job.recipe, job.hessians(), job.progress)
            return units_to_json(found)

        units = job.keep(f"units-{files.sha256(str(job.recipe).encode())[:16]}", compute)
        return _sizing(job, units_from_json(units)).plan(target)

    def operations(self, job: Job) -> Operations:
        """Counts rounding some rows of every unit at every bit width, and then all rows once."""
        units = outline(job.model, job.recipe)
        tried = [(len(job.recipe.bit_widths) * sample_rows(u.rows, u.columns), u.columns) for u in units]
        return rounding_all(job.model, job.recipe) + rounding_some(tried, job.recipe)

    def _outlined(self, job: Job) -> Sizing:
        return _sizing(job, outline(job.model, job.recipe))


def _sizing(job: Job, units: Sequence[Unit]) -> Sizing:
    return Sizing(job.model, job.recipe, units, job.folder_bytes, job.seed)


METHOD = RateDistortion
