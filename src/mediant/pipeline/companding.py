"""choose, for CVXQ: demands measured once near the rate (forms/compand/measure.py), then the rate that meets a target.

Bit widths of matrices that the paper leaves alone, such as the embedding, are allocated among these by themselves, at
the same rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mediant.allocation.whole_plan import whole_plan
from mediant.forms.compand.companded_matrix import MOST_DEPTH
from mediant.forms.compand.demands import Demand, multiplier_within
from mediant.forms.compand.form import Compand
from mediant.forms.compand.measure import reached
from mediant.forms.parts import MOST_WEIGHTS
from mediant.pipeline.choose import quantizable
from mediant.planning.plan import Plan
from mediant.planning.recipe import Recipe
from mediant.planning.size import check_range
from mediant.values import Model

Demands = Mapping[str, Demand]

TRIALS = 40
# A folder this close to its target is not improved any more.
CLOSE = 0.9995
# A multiplier that takes as many characters in a manifest as any does.
LONGEST = 1.2345678901234567e-100


@dataclass(frozen=True)
class Companding:
    """Finds the rate whose folder keeps to a target in bytes, everything counted.

    `folder_bytes` says how many bytes the folder of a plan has, `least_bytes` how many without any code; `demands` are
    measured at the rate that a plan says.
    """

    model: Model
    recipe: Recipe
    folder_bytes: Callable[[Plan], int]
    least_bytes: Callable[[Plan], int]
    demands: Callable[[Plan], Demands]
    seed: int

    def range(self) -> tuple[int, int]:
        """Bytes with no code at all, and with eight bits for every weight; both to within the padding of codes."""
        names = [info.name for info in quantizable(self.model)]
        least = self.least_bytes(self._plan(dict.fromkeys(names, LONGEST), 0.0123, MOST_WEIGHTS))
        weights = sum(info.size for info in quantizable(self.model))
        return least, least + weights * MOST_DEPTH // 8

    def plan(self, target: int) -> Plan:
        """The plan of a folder of at most `target` bytes, and of hardly less.

        Raises:
            SizeError: the target is outside what depths from 0 to 8 give.
        """
        least, largest = self.range()
        check_range(target, least, largest)
        weights = sum(info.size for info in quantizable(self.model))
        # Demands are measured near the rate that is found in the end; in three digits, so that a trial repeats.
        measured = float(f"{max(0.01, min(MOST_DEPTH, 8 * (target - least) / weights)):.3g}")
        demands = self.demands(self._plan({}, measured, target))
        low, high, best = 0.0, float(MOST_DEPTH), None
        rate = measured
        for _ in range(TRIALS):
            plan = self._plan(self._multipliers(demands, rate), measured, target)
            size = self.folder_bytes(plan)
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

    def _multipliers(self, demands: Demands, rate: float) -> dict[str, float]:
        """V for each tensor: one for the linear layers, one for what the paper leaves alone."""
        found: dict[str, float] = {}
        for loop in (True, False):
            names = [info.name for info in quantizable(self.model) if reached(info) == loop]
            if names:
                multiplier = multiplier_within([demands[name] for name in names], rate)
                found |= dict.fromkeys(names, multiplier)
        return found

    def _plan(self, multipliers: Mapping[str, float], rate: float, target: int) -> Plan:
        r = self.recipe
        companded = {
            info.name: Compand(
                multiplier=multipliers.get(info.name, 1.0), rate=rate, cluster=r.cluster,
                sequences=r.sequences, renewal=r.renewal,
            )
            for info in quantizable(self.model)
        }  # fmt: skip
        return whole_plan(self.model, r, companded, self.seed, target)
