"""Low rank: the rank of every matrix, by rate and distortion, where factors compete with the whole matrix.

With a pattern in the recipe, each matrix may be quantized whole, sparse, or a product (allocation/rank_choices.py).
Where nothing is quantized, a recipe needs no grid, scale, rounding and bit widths.

Cost: a decomposition of every matrix or more, and some knapsacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mediant import discovery, files
from mediant.allocation import Job
from mediant.allocation.knapsack import Unit, choose_whole
from mediant.allocation.layers import quantizable
from mediant.allocation.operations import Operations, rounding_all
from mediant.allocation.quantized import check_quantized
from mediant.allocation.rank_choices import (
    Choice,
    Offer,
    choices_from_json,
    choices_to_json,
    measure_ranks,
    outline_ranks,
    ranks,
)
from mediant.allocation.whole_plan import whole_plan
from mediant.planning.plan import Plan
from mediant.planning.recipe import Recipe
from mediant.planning.size import check_range

ATTEMPTS = 8
CLOSE = 1 / 2000
# Of the estimate: multiply-adds of a singular value decomposition beside rows * columns * the smaller of both.
DECOMPOSING = 20.0


@dataclass(frozen=True)
class Ranks:
    """Ranks by rate and distortion.

    Attributes:
        low_rank: the method that finds factors, a file in `methods/low_rank`.
        factors: they are cast, quantized, or cast beside a quantized matrix whose error they make good (`residual`).
        whole: a matrix may also stay in one piece.
    """

    low_rank: Mapping[str, Any] = field(default_factory=dict)
    factors: Literal["cast", "quantize", "residual"] = "cast"
    whole: bool = True

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuses a recipe whose factors cannot be made as it says."""
        if "name" not in self.low_rank:
            raise ValueError("the low_rank names no method")
        discovery.make("low_rank", self.low_rank)
        if self.factors not in ("cast", "quantize", "residual") or type(self.whole) is not bool:
            raise ValueError("factors are none of cast, quantize and residual, or whole is neither true nor false")
        if recipe.pattern and not (self.factors == "quantize" and self.whole):
            raise ValueError("a pattern goes with low_rank where factors are quantized and matrices may stay whole")
        if self.factors != "cast":
            check_quantized(recipe)

    def needs(self, recipe: Recipe) -> frozenset[str]:
        """Names what the methods of the recipe and the one for factors need."""
        return recipe.needs | discovery.needs("low_rank", self.low_rank)

    def outline(self, job: Job) -> Plan:
        """Returns the plan with the smallest way of every matrix."""
        search = self._outlined(job)
        return search.planned([0] * len(search.choices), 0)

    def check(self, job: Job, target: int) -> None:
        """Refuses a target that no choice meets."""
        check_range(target, *self._outlined(job).range())

    def range(self, job: Job) -> tuple[int, int]:
        """Returns the bytes with the smallest and with the largest way of every matrix that is worth its bytes."""
        return self.measured(job).range()

    def plan(self, job: Job, target: int) -> Plan:
        """Returns the plan of least predicted loss."""
        return self.measured(job).plan(target)

    def operations(self, job: Job) -> Operations:
        """Counts the decompositions, and rounding what stays whole."""
        offer = self.offer(job.recipe)
        decomposed = 0.0
        for info in quantizable(job.model):
            rows, columns = info.matrix_shape
            times = 2 if offer.method.nested else len(ranks(info, offer))
            decomposed += times * DECOMPOSING * rows * columns * min(rows, columns) + 2.0 * columns**3
        work = Operations(factors=decomposed)
        return work if self.factors == "cast" else work + rounding_all(job.model, job.recipe)

    def offer(self, recipe: Recipe) -> Offer:
        """Returns what matrices may become."""
        return Offer(recipe, self.low_rank, self.factors, self.whole)

    def _outlined(self, job: Job) -> RankSearch:
        return RankSearch(job, outline_ranks(job.model, self.offer(job.recipe)))

    def measured(self, job: Job) -> RankSearch:
        """Returns the search over ways whose losses were measured."""

        def compute() -> bytes:
            offer = self.offer(job.recipe)
            return choices_to_json(measure_ranks(job.model, job.statistics(), offer, job.hessians(), job.progress))

        step = f"ranks-{files.sha256(str(job.recipe).encode())[:16]}"
        return RankSearch(job, choices_from_json(job.keep(step, compute)))


@dataclass(frozen=True)
class RankSearch:
    """Spends a target in bytes on choices: a plan whose folder has at most as many bytes, everything counted."""

    job: Job
    choices: Sequence[Choice]

    def plan(self, target: int) -> Plan:
        """Returns the plan of least predicted loss within `target` bytes.

        Raises:
            SizeError: the target is below the smallest or far above the largest feasible size.
        """
        check_range(target, *self.range())
        units = [_unit(c) for c in self.choices]
        smallest, largest = (sum(extreme(u.sizes.values()) for u in units) for extreme in (min, max))
        best = [0] * len(units)
        budget = target - self.job.folder_bytes(self.planned(best, target)) + smallest
        for _ in range(ATTEMPTS):
            picked = choose_whole(units, min(largest, max(smallest, budget)))
            left = target - self.job.folder_bytes(self.planned(picked, target))
            if left >= 0 and left <= target - self.job.folder_bytes(self.planned(best, target)):
                best = picked
            if 0 <= left <= CLOSE * target:
                break
            # What is said about a tensor is known to a few bytes only.
            budget += left
        return self.planned(best, target)

    def range(self) -> tuple[int, int]:
        """Returns the bytes of the smallest and of the largest folder on offer."""
        ends = [0] * len(self.choices), [len(c.options) - 1 for c in self.choices]
        smallest, largest = (self._fixed_point(picked) for picked in ends)
        return smallest, largest

    def _fixed_point(self, picked: Sequence[int]) -> int:
        """Returns the least target that the folder keeps: the folder states its target."""
        target = 0
        while (size := self.job.folder_bytes(self.planned(picked, target))) > target:
            target = size
        return target

    def planned(self, picked: Sequence[int], target: int) -> Plan:
        """Returns the plan that takes the options of these numbers."""
        taken = {c.tensor: c.options[i] for c, i in zip(self.choices, picked, strict=True)}
        chosen = {name: option.plan for name, option in taken.items()}
        loss = max(0.0, sum(option.loss for option in taken.values()))
        return whole_plan(self.job.model, self.job.recipe, chosen, self.job.seed, target, loss)


def _unit(choice: Choice) -> Unit:
    """Returns the choice for the knapsack, with numbers of options in place of bit widths."""
    sizes = {i: o.bytes for i, o in enumerate(choice.options)}
    return Unit(choice.tensor, 1, 1, sizes, {i: o.loss for i, o in enumerate(choice.options)})


METHOD = Ranks
