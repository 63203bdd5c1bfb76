"""The smallest file within a loss: packs trial files and measures their KL on text the model wrote itself.

The logarithm of KL falls almost linearly with bytes, so each trial is placed by interpolation between the nearest
trials on either side (regula falsi, with a bisection whenever a side stays the same). The text is held out from
calibration and is not the user's evaluation text.
"""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING

import torch

from mediant.errors import SizeError, UsageError
from mediant.evaluation.divergence import compare
from mediant.models.reference import load_reference
from mediant.planning.size import human
from mediant.runtime.loading import load
from mediant.statistics.calibration import held_out_windows
from mediant.values import Plan

if TYPE_CHECKING:
    from mediant.pipeline.compress import Compression

WINDOWS, WINDOW = 8, 256
TRIALS = 8
# A file is small enough when its loss is within 3 % of the limit, or the bracket within 1 % of its bytes.
CLOSE = 0.97
NARROW = 0.01


def smallest_within(run: Compression, max_kl: float) -> Plan:
    """The plan of the smallest file found whose KL on held-out text is at most `max_kl` nats per token.

    Raises:
        UsageError: the limit is not positive, or the model is not causal.
        SizeError: not even the largest file of this recipe is within the limit.
    """
    if not max_kl > 0:
        raise UsageError(f"--max-kl is {max_kl}; it takes a positive number of nats per token, such as 0.05.")
    if not run.model.causal:
        raise UsageError("--max-kl needs a model that predicts tokens; give --size for an encoder.")
    measure = _Judge(run)
    low, high = run.sizing.range()
    best = run.plan_for(high)
    bracket = {low: math.inf, high: measure(best)}
    if bracket[high] > max_kl:
        raise SizeError(
            f"A loss of {max_kl} nats per token cannot be met with this recipe: its largest file, {human(high)}, "
            f"has {bracket[high]:.4g}."
        )
    for _ in range(TRIALS):
        if high - low <= NARROW * high or bracket[high] >= CLOSE * max_kl:
            break
        target = _between(low, high, bracket, max_kl)
        plan = run.plan_for(target)
        loss = measure(plan)
        bracket[target] = loss
        if loss <= max_kl:
            high, best = target, plan
        else:
            low = target
    return best


def _between(low: int, high: int, losses: dict[int, float], limit: float) -> int:
    """Where log(loss), linear between the two sides, meets the limit; kept inside the middle nine tenths."""
    share = 0.5
    if math.isfinite(losses[low]) and losses[high] > 0:
        share = math.log(losses[low] / limit) / math.log(losses[low] / losses[high])
    return round(low + min(0.95, max(0.05, share)) * (high - low))


class _Judge:
    """Measures the KL of a plan's file against the original on held-out text."""

    def __init__(self, run: Compression) -> None:
        self.run = run
        self.windows = held_out_windows(run.model, WINDOWS, WINDOW, run.request.seed, run.progress)
        self.reference = load_reference(run.model)

    def __call__(self, plan: Plan) -> float:
        folder = self.run.workspace.folder / "trial"
        self.run.pack(plan, folder)
        candidate = load(folder)

        def logits(model: torch.nn.Module) -> object:
            return lambda tokens: model(input_ids=tokens).logits

        result = compare(logits(self.reference), logits(candidate), self.windows, self.run.progress)  # type: ignore[arg-type]
        shutil.rmtree(folder)
        self.run.progress.say(f"  KL {result.kl:.4f}")
        return float(result.kl)
