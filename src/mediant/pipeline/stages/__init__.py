"""Stages after rounding: one file is one stage, which changes the encodings of a plan.

A stage is a frozen dataclass, offered as `METHOD`. A recipe and a plan ask for it by name, with its fields, in `after`:
`after: {sharpen: {steps: 3}}`. In a recipe's `stages` it stands behind `quantize`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Protocol

from mediant import discovery
from mediant.allocation.operations import Operations
from mediant.forms import Encoding
from mediant.pipeline.run import Run
from mediant.planning.plan import Plan

STAGES = "mediant.pipeline.stages"

Encodings = Callable[[], Generator[Encoding, None, None]]


class Stage(Protocol):
    """Something that happens to a model's encodings after rounding. `place` orders stages: low ones come first."""

    @property
    def place(self) -> int:
        """Position among the stages."""

    def asked(self, plan: Plan) -> bool:
        """Tells whether a plan wants it."""

    def check(self, run: Run, plan: Plan) -> None:
        """Refuses, before any work, what it cannot do for a plan.

        Args:
            run: nothing is measured yet.
            plan: the one that was given, or the smallest that the recipe leads to.

        Raises:
            PlanError, UsageError: the first fault.
        """

    def apply(self, run: Run, plan: Plan, encodings: Encodings) -> Generator[Encoding, None, None]:
        """Does its work, then yields all tensors, in model order, in the parts in which they are stored.

        Args:
            run: where what is finished is kept, by `run.steps(plan)`.
            plan: what was asked for.
            encodings: the tensors as the stage before left them; may be called more than once.
        """

    def operations(self, run: Run, plan: Plan) -> Operations:
        """Counts what it takes, from shapes alone."""


def stages_of(plan: Plan) -> list[Stage]:
    """Returns the stages that a plan asks for, in their order.

    Raises:
        PlanError: there is none of some name, or it does not have such fields.
    """
    names = sorted({*discovery.names(STAGES), *plan.after})
    found: list[Stage] = [discovery.make(STAGES, {"name": name, **plan.after.get(name, {})}) for name in names]
    return sorted((stage for stage in found if stage.asked(plan)), key=lambda stage: stage.place)
