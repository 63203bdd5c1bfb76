"""The smallest file within a loss: packs trial files and measures their KL on text the model wrote itself.

The logarithm of KL falls almost linearly with bytes, so each trial is placed by interpolation between the nearest
trials on either side: regula falsi with the Illinois rule (Dowell and Jarratt 1971, BIT 11), which halves the weight of
a side that stays. The text is held out from calibration and is not the user's evaluation text.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

import torch

from mediant import files
from mediant.errors import SizeError
from mediant.evaluation.divergence import Forward, compare
from mediant.models.head_in_pieces import logits_of
from mediant.models.opening import positions
from mediant.models.reference import load_reference
from mediant.pipeline.run import Run
from mediant.planning.plan import Plan
from mediant.planning.size import exact
from mediant.runtime.loading import load
from mediant.statistics.calibration_text import held_out_windows
from mediant.workers import compute_alone, ordered

WINDOWS, WINDOW = 8, 256
TRIALS = 8
# A file is small enough when its loss is within 3 % of the limit, or the bracket within 1 % of its bytes.
CLOSE = 0.97
NARROW = 0.01
# Stands for a loss of nothing, which has no logarithm.
TINY = 1e-12


def smallest_within(
    run: Run, max_kl: float, low: int, high: int, plan_for: Callable[[int], Plan], loss_of: Callable[[Plan], float]
) -> Plan:
    """Returns the plan of the smallest file found whose KL on held-out text is at most `max_kl` nats per token.

    Args:
        run: which keeps what was computed for plans.
        max_kl: the limit.
        low, high: bytes of the smallest and of the largest file on offer.
        plan_for: finds the plan for a size in bytes.
        loss_of: measures the KL of a plan.

    Raises:
        SizeError: not even the largest file of this recipe is within the limit.
    """
    best = plan_for(high)
    loss = loss_of(best)
    if loss > max_kl:
        raise SizeError(
            f"A loss of {max_kl} nats per token cannot be met with this recipe: its largest file, {exact(high)}, "
            f"loses {loss:.4g}.",
            low,
            high,
        )
    # Distances from the limit, in the logarithm of the loss. The smallest file is taken to be far beyond it.
    above, below, moved = math.inf, _distance(max_kl, loss), ""
    for _ in range(TRIALS):
        if high - low <= NARROW * high or loss >= CLOSE * max_kl:
            break
        target = between(low, high, above, below)
        plan = plan_for(target)
        found = loss_of(plan)
        if found <= max_kl:
            run.steps(best).close()
            high, best, loss, below = target, plan, found, _distance(max_kl, found)
            above, moved = above / 2 if moved == "high" else above, "high"
        else:
            run.steps(plan).close()
            low, above = target, _distance(found, max_kl)
            below, moved = below / 2 if moved == "low" else below, "low"
    return best


def between(low: int, high: int, above: float, below: float) -> int:
    """Interpolates: where the line from `above` at `low` to -`below` at `high` is 0, within the middle nine tenths."""
    share = above / (above + below) if math.isfinite(above) else 0.5
    return round(low + min(0.95, max(0.05, share)) * (high - low))


def _distance(larger: float, smaller: float) -> float:
    return math.log(larger / max(smaller, TINY))


@dataclass(frozen=True)
class HeldOutLoss:
    """Measures the KL of plans against the original on held-out text, with the same bits for any number of threads."""

    run: Run
    pack: Callable[[Plan, Path], object]

    def loss(self, plan: Plan) -> float:
        """Returns the mean KL in nats per token; kept as a step of the run."""
        name = f"loss-{files.sha256(plan.to_json().encode())[:16]}"
        kl = float(json.loads(self.run.workspace.step(name, lambda: json.dumps(self._measured(plan)).encode())))
        self.run.progress.say(f"  KL {kl:.4f} nats per token")
        return kl

    @cached_property
    def _windows(self) -> torch.Tensor:
        length = min(WINDOW, positions(self.run.original) or WINDOW)
        return held_out_windows(self.run.original, WINDOWS, length, self.run.seed, self.run.progress)

    @cached_property
    def _reference(self) -> Forward:
        return logits_of(load_reference(self.run.original))

    def _measured(self, plan: Plan) -> float:
        reference, folder = self._reference, self.run.workspace.folder / "trial"
        self.pack(plan, folder)
        candidate = logits_of(load(folder))
        shutil.rmtree(folder)

        def kl(window: torch.Tensor) -> float:
            return compare(reference, candidate, window[None]).kl

        compared = ordered(kl, self._windows, compute_alone)
        return fmean(self.run.progress.track(compared, "Comparing with the original", len(self._windows)))
