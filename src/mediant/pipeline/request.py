"""What a person asks of `compress`, and what can be refused of it without opening the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mediant import files
from mediant.checkpoint.writer import check_replaceable
from mediant.errors import PlanError, UsageError
from mediant.planning.plan import Plan

Coding = Literal["fixed", "entropy"]
# The recipe that --coding entropy stands for.
ENTROPY = "entropy"


@dataclass(frozen=True)
class CompressRequest:
    """What a person asked for. Exactly one of `size`, `max_kl` and `plan` says how far to compress.

    A plan says its recipe and seed itself, so `recipe` and `seed` only matter without one. `coding` is `fixed`, which
    leaves it to the recipe, or `entropy`, which stands for the recipe `entropy`. With `resume`, the run goes on
    where a stopped one with the same model, text and recipe left off. `tune` are minutes of scale tuning; a plan has
    steps instead. Without `wait`, a run that finds another one writing to `out` is refused.
    """

    model: str
    out: Path
    size: str | None = None
    max_kl: float | None = None
    plan: Path | None = None
    recipe: str = "default"
    coding: Coding = "fixed"
    calibration: Path | None = None
    seed: int = 0
    resume: bool = True
    tune: float = 0.0
    wait: bool = True

    def check(self) -> None:
        """Refuses what contradicts itself or would write over something.

        Raises:
            UsageError, StorageError: with the first fault.
        """
        if [self.size, self.max_kl, self.plan].count(None) != 2:
            raise UsageError("Give exactly one of --size, --max-kl and --plan.")
        if self.max_kl is not None and not 0 < self.max_kl < math.inf:
            raise UsageError(f"--max-kl is {self.max_kl}; it takes a positive number of nats per token, such as 0.05.")
        if not 0 <= self.tune < math.inf:
            raise UsageError(f"--tune is {self.tune}; it takes a number of minutes from 0.")
        if self.seed < 0:
            raise UsageError(f"--seed is {self.seed}; it takes a whole number from 0.")
        if self.coding not in get_args(Coding):
            raise UsageError(f"--coding is {self.coding!r}; it takes fixed or entropy.")
        if self.coding == "entropy" and (self.plan is not None or self.recipe != "default"):
            raise UsageError("--coding entropy is a recipe of its own; it goes with --size or --max-kl.")
        check_replaceable(self.out)

    @property
    def recipe_name(self) -> str:
        """The name or file of the recipe that is asked for."""
        return ENTROPY if self.coding == "entropy" else self.recipe

    def given_plan(self) -> Plan | None:
        """Returns the plan in the file that was named.

        Raises:
            PlanError: it is none.
        """
        if self.plan is None:
            return None
        try:
            text = self.plan.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise PlanError(f"There is no plan {self.plan}.") from None
        except (OSError, UnicodeDecodeError) as problem:
            raise PlanError(f"The plan {self.plan} cannot be read: {files.reason(problem)}.") from None
        return Plan.from_json(text, str(self.plan))
