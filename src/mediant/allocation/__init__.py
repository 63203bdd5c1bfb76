"""How bytes are spent: one file in `strategies` is one way to find a plan for a size, named by a recipe's `allocation`.

A strategy is a frozen dataclass, offered as `METHOD`, whose fields are what a recipe may say of it:
`allocation: {name: companding_rate, cluster: 512}`, or just the name. It keeps nothing between calls: what it measures
goes through `Job.keep`, so that a stopped run takes it up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mediant import discovery
from mediant.allocation.operations import Operations
from mediant.errors import PlanError
from mediant.planning.plan import Plan
from mediant.planning.recipe import Recipe
from mediant.progress import Progress
from mediant.statistics.hessian import Hessians
from mediant.values import Model, Statistics

STRATEGIES = "mediant.allocation.strategies"


@dataclass(frozen=True)
class Job:
    """What a strategy may ask for, each at the moment it is asked for and at most once.

    Attributes:
        model: after all structural edits.
        recipe: says among other things what is on offer for a tensor.
        seed: of everything random.
        statistics: sensitivities over the calibration text.
        hessians: of all inputs where the strategy or a method of the recipe needs them, else of none.
        hints: what forms of a plan ask of the whole model, by tensor (forms/encoding.py).
        folder_bytes: bytes of the folder of a plan, exactly; coded tensors are coded for it.
        least_bytes: the same without any coded number.
        keep: bytes of a step of that name, computed only if no earlier run has.
        drop: is told of a plan that is not taken, so that what was coded for it can go.
        progress: is told how far the work is.
    """

    model: Model
    recipe: Recipe
    seed: int
    statistics: Callable[[], Statistics]
    hessians: Callable[[], Hessians]
    hints: Callable[[Plan], Mapping[str, Any]]
    folder_bytes: Callable[[Plan], int]
    least_bytes: Callable[[Plan], int]
    keep: Callable[[str, Callable[[], bytes]], bytes]
    drop: Callable[[Plan], None]
    progress: Progress


class Strategy(Protocol):
    """One way to spend bytes."""

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuses a recipe that lacks what the strategy chooses among, before a model is opened.

        Raises:
            PlanError: a method does not exist, or does not have the recipe's parameters.
            ValueError: fields of the recipe do not go together.
        """

    def needs(self, recipe: Recipe) -> frozenset[str]:
        """Names what calibration has to measure, such as `hessian`."""

    def outline(self, job: Job) -> Plan:
        """Returns the smallest plan there is, from shapes alone: it tells what is stored how."""

    def check(self, job: Job, target: int) -> None:
        """Refuses, before anything is measured, a target in bytes that no weights could meet.

        Raises:
            SizeError: naming the size that can be met.
        """

    def range(self, job: Job) -> tuple[int, int]:
        """Returns the bytes of the smallest and of the largest folder on offer; may measure."""

    def plan(self, job: Job, target: int) -> Plan:
        """Returns the plan of a folder of at most `target` bytes, and of hardly less, that loses least.

        Raises:
            SizeError: the target is below the smallest or far above the largest size on offer.
        """

    def operations(self, job: Job) -> Operations:
        """Counts what finding and carrying out a plan takes beside calibration."""


def strategy_of(recipe: Recipe) -> Strategy:
    """Returns the strategy that a recipe names.

    Raises:
        PlanError: there is none of that name, or it does not have such parameters.
    """
    given = recipe.allocation
    found: Strategy = discovery.make(STRATEGIES, {"name": given} if isinstance(given, str) else given)
    return found


def check_recipe(recipe: Recipe) -> None:
    """Refuses a recipe that its strategy cannot go by.

    Raises:
        PlanError: with the first fault.
    """
    try:
        strategy_of(recipe).check_recipe(recipe)
    except ValueError as problem:
        raise PlanError(f"The recipe {recipe.name} is not usable: {problem}.") from None
