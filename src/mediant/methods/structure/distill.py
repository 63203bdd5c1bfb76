"""Distillation as an edit: the model as earlier edits left it learns from the original (methods/training/distillation).

What a pruned model lost comes back in part within minutes. It changes no shape; as an edit, it stands in a plan behind
the edits that it repairs, and what follows, such as quantization, starts from the repaired weights. Eight windows of
the text are not learned from and judge: if the KL on them did not fall, nothing is changed.

Cost: `steps` times `batch` windows, each a forward pass of the original and a forward and a backward pass of the model.
Memory: four float32 copies of the model, one of the original, and a gradient for each thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from mediant.errors import PlanError
from mediant.methods.structure import State
from mediant.methods.training._descent import Course
from mediant.methods.training.distillation import Distillation, Distiller
from mediant.progress import Progress

REFERENCES = ("Hinton, Vinyals, Dean 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531",)
NEEDS: tuple[str, ...] = ()

HELD_OUT = 8
MOST_RANK = 1024
KEEP_EVERY = 20


@dataclass(frozen=True)
class Distill:
    """Steps, windows a step, the seed of their order, and the parameters of `Distillation`."""

    steps: int = 100
    batch: int = 2
    seed: int = 0
    alpha: float = 0.0
    temperature: float = 1.0
    hidden: float = 0.0
    rate: float = 5e-4
    lora_rank: int = 0

    def train(
        self,
        student: nn.Module,
        teacher: nn.Module,
        windows: torch.Tensor,
        progress: Progress,
        state: State | None,
        keep: Callable[[State], None],
    ) -> State:
        """Returns the learned weights; none where they are no better on windows that were not learned from.

        Raises:
            PlanError: a parameter is out of range, or there is one window only.
            UsageError: for adapters without the package that they need.
        """
        if self.steps < 1 or self.batch < 1 or len(windows) < 2:
            raise PlanError("Distillation takes at least one step, one window a step, and two windows of text.")
        distiller = Distiller(
            student, teacher, method_of(self.alpha, self.temperature, self.hidden, self.rate, self.lora_rank)
        )
        held = held_out(len(windows))
        before = distiller.divergence(windows[held])
        course = Course(self.steps, self.batch, self.seed, KEEP_EVERY)
        distiller.run(windows[~held], course, progress, None if state is None else dict(state), keep)
        after = distiller.divergence(windows[held])
        progress.say(f"Distilled in {self.steps} steps: KL {before:.4f} -> {after:.4f} on text not learned from.")
        return distiller.values() if after < before else {}


METHOD = Distill


def method_of(alpha: float, temperature: float, hidden: float, rate: float, lora_rank: int = 0) -> Distillation:
    """Returns the method with these parameters.

    Raises:
        PlanError: one is out of range.
    """
    if not 0 <= alpha <= 1 or not 0 < temperature < 1e3 or not 0 <= hidden < 1e6 or not 0 < rate < 1:
        raise PlanError(
            f"Distillation takes alpha from 0 to 1 (here {alpha}), a positive temperature ({temperature}), hidden from "
            f"0 ({hidden}) and a rate between 0 and 1 ({rate})."
        )
    if not 0 <= lora_rank <= MOST_RANK:
        raise PlanError(f"Adapters take a rank from 1 to {MOST_RANK}, or 0 for none; here it is {lora_rank}.")
    return Distillation(alpha, temperature, hidden, rate, lora_rank)


def held_out(windows: int) -> torch.Tensor:
    """Chooses the windows that judge and are not learned from: about eight, evenly spread, never all."""
    return torch.arange(windows) % max(2, -(-windows // HELD_OUT)) == 0
