"""Spends a target in bytes on units, so that the whole folder meets it, with all that is beside its codes."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mediant.allocation.knapsack import Allocation, Unit, allocate, merged, predicted_loss
from mediant.allocation.plane_order import plane_order
from mediant.allocation.whole_plan import whole_plan
from mediant.planning.plan import Plan
from mediant.planning.recipe import Recipe
from mediant.planning.size import check_range
from mediant.values import Model, RowSpan

ATTEMPTS = 12
# A folder this close to its target is not improved any more.
CLOSE = 1 / 2000

Runs = Mapping[str, tuple[RowSpan, ...]]
Extreme = Callable[[Iterable[int]], int]


@dataclass(frozen=True)
class Sizing:
    """Finds the plan of a folder of at most `target` bytes, everything counted.

    `folder_bytes` says how many bytes the folder of a plan has, exactly; `spend` gives units their bit widths within a
    budget. Where nothing was `measured`, plans predict no loss, and say no order in which a nested model gives up bits.
    """

    model: Model
    recipe: Recipe
    units: Sequence[Unit]
    folder_bytes: Callable[[Plan], int]
    seed: int
    spend: Callable[[Sequence[Unit], int, int], Allocation] = allocate
    measured: bool = True

    def smallest(self) -> Plan:
        """Returns the plan with the smallest bit width everywhere."""
        return self._plan(self._everywhere(min), 0)

    def plan(self, target: int) -> Plan:
        """Returns the plan of least predicted loss within `target` bytes.

        Raises:
            SizeError: the target is below the smallest or far above the largest feasible size.
        """
        smallest, largest = self.range()
        check_range(target, smallest, largest)
        fits, ceiling = (sum(extreme(u.sizes.values()) for u in self.units) for extreme in (min, max))
        too_much, misses = ceiling + 1, 0
        best = self._everywhere(min)
        budget = fits + (target - smallest) * (ceiling - fits) // max(1, largest - smallest)
        for _ in range(ATTEMPTS):
            budget = budget if fits <= budget < too_much else (fits + too_much) // 2
            runs = self._spend(budget, target)
            left = self._left(runs, target)
            if left >= 0:
                fits, misses = budget, 0
                best = min(best, runs, key=lambda r: self._left(r, target))
            else:
                too_much, misses = budget, misses + 1
            if 0 <= left <= CLOSE * target or too_much - fits <= 1:
                break
            # Units know neither the manifest nor the tables that runs share: aim again by what was missed.
            budget += left << misses
        return self._plan(self._topped_up(best, target), target)

    def check(self, target: int) -> None:
        """Refuses a target that no choice of bit widths meets; losses play no part.

        Raises:
            SizeError: naming the size that can be met.
        """
        check_range(target, *self.range())

    def range(self) -> tuple[int, int]:
        """Returns the bytes of the smallest and of the largest folder on offer."""
        return self._fixed_point(min), self._fixed_point(max)

    def _fixed_point(self, extreme: Extreme) -> int:
        """Returns the least target that the folder with this bit width everywhere keeps: the folder states its
        target.
        """
        target, runs = 0, self._everywhere(extreme)
        while (left := self._left(runs, target)) < 0:
            target -= left
        return target

    def _everywhere(self, extreme: Extreme) -> Runs:
        runs: dict[str, list[RowSpan]] = {}
        for unit in self.units:
            runs.setdefault(unit.tensor, []).append(RowSpan(unit.rows, extreme(unit.sizes)))
        return {name: merged(given) for name, given in runs.items()}

    def _spend(self, budget: int, target: int) -> Runs:
        return self.spend(self.units, budget, target - budget).runs

    def _topped_up(self, runs: Runs, target: int) -> Runs:
        """Uses what a small model leaves, where one more bit width in a tensor costs more than the rows that get it.

        Rows that cost nothing at a higher bit width, as theirs needs a table of its own, come first; then, each time,
        the tensor that can use most.
        """
        while (left := self._left(runs, target)) > CLOSE * target:
            together = {unit.tensor: unit.together for unit in self.units}
            options = [_Raise(runs, n, *_next_step(runs[n], self.recipe.bit_widths), together[n]) for n in runs]
            free = (r for o in options if o.bits and self._left(r := o.rows(o.most), target) >= left)
            best = next(free, None) or min(
                (self._raised(o, target) for o in options), key=lambda r: self._left(r, target)
            )
            if best == runs:
                break
            runs = best
        return runs

    def _raised(self, option: _Raise, target: int) -> Runs:
        """Returns the rows at the other bit width that use most of what is left; none if even one is too much."""
        most = option.most if option.bits else 0
        steps = range(1, -(-most // option.together) + 1)
        count = bisect.bisect(
            steps, 0, key=lambda step: -self._left(option.rows(min(most, step * option.together)), target)
        )
        return option.rows(min(most, count * option.together))

    def _left(self, runs: Runs, target: int) -> int:
        return target - self.folder_bytes(self._plan(runs, target))

    def _plan(self, runs: Runs, target: int) -> Plan:
        quantized = {n: self.recipe.tensor_plan(given, self.model.tensor(n).role) for n, given in runs.items()}
        if self.recipe.storage == "nested" and self.measured:
            for name, truncations in plane_order(self.units, runs).items():
                quantized[name] = quantized[name].with_truncations(truncations)
        loss = predicted_loss(self.units, runs) if self.measured else None
        return whole_plan(self.model, self.recipe, quantized, self.seed, target, loss)


def _next_step(runs: Sequence[RowSpan], bit_widths: Sequence[int]) -> tuple[int, int]:
    """Returns the run of a tensor that is cheapest to raise, and its next bit width; the latter is 0 if all are at the
    deepest.

    A bit width that the tensor has already needs no table of its own, and right behind a run of it not even an entry.
    """
    following, present = dict(pairwise(sorted(bit_widths))), {run.bits for run in runs}
    steps = [
        (at, min((bits for bits in present if bits > run.bits), default=following[run.bits]))
        for at, run in enumerate(runs)
        if run.bits in following
    ]
    return min(
        steps,
        key=lambda step: (step[1] not in present, step[0] == 0 or runs[step[0] - 1].bits != step[1]),
        default=(0, 0),
    )


@dataclass(frozen=True, eq=False)
class _Raise:
    """One run of a tensor that may have its first rows at another bit width."""

    runs: Runs
    tensor: str
    at: int
    bits: int
    together: int = 1

    @property
    def most(self) -> int:
        return self.runs[self.tensor][self.at].rows

    def rows(self, count: int) -> Runs:
        given = self.runs[self.tensor]
        pieces = (RowSpan(count, self.bits), RowSpan(self.most - count, given[self.at].bits))
        split = merged([*given[: self.at], *(piece for piece in pieces if piece.rows), *given[self.at + 1 :]])
        return {**self.runs, self.tensor: split}
