"""CVXQ: the rate at which companded matrices meet a target in bytes, with bit widths by dual ascent.

Demands of all matrices (forms/compand/measure.py) are measured near the rate that is found in the end, on weights
quantized at that rate; then bisection over the rate, as bytes grow with it.

Cost: gradients of `sequences` sequences through the whole model, all in memory, and sizing some dozen plans.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mediant.allocation import Job
from mediant.allocation.layers import quantizable
from mediant.allocation.operations import ALONE, Operations
from mediant.allocation.whole_plan import whole_plan
from mediant.forms.compand.companded_matrix import MOST_BITS
from mediant.forms.compand.demands import Demand, multiplier_within
from mediant.forms.compand.form import Compand
from mediant.forms.compand.measure import reached
from mediant.forms.parts import MOST_WEIGHTS
from mediant.planning.plan import Plan
from mediant.planning.recipe import Recipe
from mediant.planning.size import check_range
from mediant.values import Model

TRIALS = 40
# A folder this close to its target is not improved any more.
CLOSE = 0.9995
# A multiplier that takes as many characters in a manifest as any does.
LONGEST = 1.2345678901234567e-100
# Of the estimate: tokens of a sequence, and passes over it for its gradients and squares.
TOKENS, PASSES = 512, 4.0


@dataclass(frozen=True)
class CompandingRate:
    """One rate for the whole model.

    Attributes:
        cluster: rows that share their bit widths, about.
        sequences: of tokens whose gradients are measured.
        renewal: sequences after which weights are quantized anew; 0 leaves the original ones.
    """

    cluster: int = 512
    sequences: int = 48
    renewal: int = 16

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuses a recipe that says how to quantize otherwise."""
        if any(type(n) is not int for n in (self.cluster, self.sequences, self.renewal)) or not (
            self.cluster >= 1 and self.sequences >= 1 and self.renewal >= 0
        ):
            raise ValueError("the cluster and the sequences are not whole numbers from 1, or the renewal is below 0")
        if recipe.grid or recipe.scale or recipe.rounding or recipe.bit_widths or recipe.pattern:
            raise ValueError("a grid, a scale, a rounding, bit widths and a pattern do not go with companding")

    def needs(self, recipe: Recipe) -> frozenset[str]:
        """Names nothing: sensitivities do."""
        return frozenset()

    def outline(self, job: Job) -> Plan:
        """Returns the plan of no code at all."""
        names = [info.name for info in quantizable(job.model)]
        return self._plan(job, dict.fromkeys(names, LONGEST), 0.0123, MOST_WEIGHTS)

    def check(self, job: Job, target: int) -> None:
        """Refuses a target outside what bit widths from 0 to 8 give."""
        check_range(target, *self.range(job))

    def range(self, job: Job) -> tuple[int, int]:
        """Returns the bytes with no code at all, and with eight bits for every weight, but for the padding of codes."""
        least = job.least_bytes(self.outline(job))
        weights = sum(info.size for info in quantizable(job.model))
        return least, least + weights * MOST_BITS // 8

    def plan(self, job: Job, target: int) -> Plan:
        """Returns the plan at the rate that meets the target."""
        least, largest = self.range(job)
        check_range(target, least, largest)
        weights = sum(info.size for info in quantizable(job.model))
        # Demands are measured near the rate that is found in the end; in three digits, so that a trial repeats.
        measured = float(f"{max(0.01, min(MOST_BITS, 8 * (target - least) / weights)):.3g}")
        demands = job.hints(self._plan(job, {}, measured, target))
        low, high, best = 0.0, float(MOST_BITS), None
        rate = measured
        for _ in range(TRIALS):
            plan = self._plan(job, _multipliers(job.model, demands, rate), measured, target)
            size = job.folder_bytes(plan)
            if size <= target:
                low, best = rate, plan
                if size >= CLOSE * target:
                    break
            else:
                high = rate
            rate = (low + high) / 2
        if best is None:
            check_range(target, size, largest)
            raise AssertionError("a range that was checked")
        return best

    def operations(self, job: Job) -> Operations:
        """Counts the gradients of all sequences, and fitting every matrix once for each renewal and at the end."""
        weights = sum(info.size for info in quantizable(job.model))
        rounds = -(-self.sequences // (self.renewal or self.sequences))
        return Operations(
            products=PASSES * self.sequences * TOKENS * weights,
            rounding=ALONE * rounds * weights,
        )

    def _plan(self, job: Job, multipliers: Mapping[str, float], rate: float, target: int) -> Plan:
        companded = {
            info.name: Compand(
                multiplier=multipliers.get(info.name, 1.0), rate=rate, cluster=self.cluster,
                sequences=self.sequences, renewal=self.renewal,
            )
            for info in quantizable(job.model)
        }  # fmt: skip
        return whole_plan(job.model, job.recipe, companded, job.seed, target)


def _multipliers(model: Model, demands: Mapping[str, Demand], rate: float) -> dict[str, float]:
    """V for each tensor: one for the linear layers, one for what the paper leaves alone."""
    found: dict[str, float] = {}
    for linear in (True, False):
        names = [info.name for info in quantizable(model) if reached(info) == linear]
        if names:
            multiplier = multiplier_within([demands[name] for name in names], rate)
            found |= dict.fromkeys(names, multiplier)
    return found


METHOD = CompandingRate
