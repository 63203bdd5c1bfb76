"""Distillation: a small network learns from the logits of the one it was made from, and from the text.

Minimises, over all weights of the student, the mean over tokens of

    alpha CE(label, q_1) + (1 - alpha) T^2 KL(p_T || q_T) + hidden * mean over layers of |h - h'|^2 / |h'|^2,

p_T = softmax(teacher / T), q_T = softmax(student / T); h and h' are hidden states of student and teacher.

Against scale tuning (scale_tuning.py), which learns a number a row, this learns every weight: for students that were
pruned or factored, whose weights are not codes. It needs four times the student's bytes, and steps that cost a forward
pass of the teacher and a forward and backward pass of the student.

With `lora_rank`, thin products beside the matrices learn instead (adapters.py). Without it, weights that are 0 stay 0
in a matrix that was pruned (over a tenth of it is 0), so that it can be stored sparse again.

Shapes: logits [tokens, vocabulary], labels [tokens] int64, hidden states [tokens, width], all of one window.

Source: Hinton, Vinyals, Dean 2015 (arXiv 1503.02531), section 2: the gradient of KL at temperature T falls as 1/T^2,
so T^2 keeps the balance of both terms when T changes. Hidden states as in Romero et al. 2015 (FitNets, arXiv 1412.6550)
and Jiao et al. 2020 (TinyBERT, arXiv 1909.10351). Deviations: 1. Errors of hidden states are relative for each token,
as the first token of a window is often a thousand times longer than others. 2. Widths are equal, so no projection is
learned; a student with fewer layers is compared with evenly spread layers of the teacher.

>>> teacher = torch.tensor([[0.0, 2.0], [1.0, -1.0]])
>>> float(soft_loss(teacher + 5, teacher, temperature=2.0))
0.0
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mediant.errors import PlanError
from mediant.methods.training._descent import LEAST, Course, Descent, Gradient, State, keep_nothing
from mediant.methods.training.adapters import Adapters
from mediant.methods.training.divergence import divergence, mean_in_pieces
from mediant.models.head_in_pieces import HeadInPieces, pieces_for
from mediant.progress import SILENT, Progress
from mediant.workers import compute_alone, ordered

REFERENCES = (
    "Hinton, Vinyals, Dean 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531",
    "Romero et al. 2015, FitNets: Hints for Thin Deep Nets, arXiv:1412.6550",
    "Jiao et al. 2020, TinyBERT: Distilling BERT for Natural Language Understanding, arXiv:1909.10351",
)
NEEDS: tuple[str, ...] = ()

# A matrix with a larger share of zeros was pruned.
PRUNED = 0.1
# A token this much smaller than the mean is not told apart from it by its direction.
TINY = 1e-6

Hidden = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Distillation:
    """Weights of the terms, the temperature, and the rate of Adam relative to the size of each tensor.

    `lora_rank` is that of adapters, one of whose factors begins at 0: there the rate is absolute.
    """

    alpha: float = 0.0
    temperature: float = 1.0
    hidden: float = 0.0
    rate: float = 5e-4
    lora_rank: int = 0

    def loss(self, student: nn.Module, teacher: nn.Module, window: torch.Tensor) -> torch.Tensor:
        """Returns the loss on a window of tokens [tokens], a scalar that can be run backwards through the student."""
        heads = pieces_for(student, len(window)), pieces_for(teacher, len(window))
        if heads[0] is not None and heads[1] is not None:
            return self._loss_in_pieces(heads[0], heads[1], window)
        states = self.hidden > 0
        with torch.no_grad():
            target = teacher(input_ids=window[None], use_cache=False, output_hidden_states=states)
        found = student(input_ids=window[None], use_cache=False, output_hidden_states=states)
        loss = torch.zeros(())
        if self.alpha < 1:
            loss = loss + (1 - self.alpha) * soft_loss(found.logits[0], target.logits[0], self.temperature)
        if self.alpha > 0:
            loss = loss + self.alpha * hard_loss(found.logits[0, :-1], window[1:])
        return loss + self.hidden * hidden_loss(_states(found), _states(target)) if states else loss

    def _loss_in_pieces(self, student: HeadInPieces, teacher: HeadInPieces, window: torch.Tensor) -> torch.Tensor:
        states = self.hidden > 0
        with torch.no_grad():
            target = teacher.outputs(window[None], output_hidden_states=states)
        found = student.outputs(window[None], output_hidden_states=states)
        last = len(window) - 1

        def of_logits(logits: torch.Tensor, wanted: torch.Tensor, at: slice) -> torch.Tensor:
            loss = torch.zeros(())
            if self.alpha < 1:
                loss = loss + (1 - self.alpha) * soft_loss(logits, wanted, self.temperature)
            labels = window[at.start + 1 : at.stop + 1]
            if self.alpha > 0 and len(labels):
                # A mean over the tokens that have a next one, in a mean over all.
                share = len(labels) / len(logits) * len(window) / last
                loss = loss + share * self.alpha * hard_loss(logits[: len(labels)], labels)
            return loss

        loss = mean_in_pieces(student, teacher, found.last_hidden_state, target.last_hidden_state, of_logits)
        return loss + self.hidden * hidden_loss(_states(found), _states(target)) if states else loss


METHOD = Distillation


class Distiller:
    """A student whose weights are learned from a teacher; it is changed.

    Args:
        student: in float32.
        teacher: in float32.
        method: what is minimised.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, method: Distillation) -> None:
        self.student, self.teacher, self.method = student.requires_grad_(True), teacher.requires_grad_(False), method
        self.losses: list[float] = []

    def run(
        self,
        windows: torch.Tensor,
        course: Course,
        progress: Progress = SILENT,
        state: State | None = None,
        keep: Callable[[State], None] = keep_nothing,
    ) -> None:
        """Takes the steps of a course over windows [windows, tokens]; `state` and `keep` as in `Descent.run`.

        Raises:
            UsageError: for adapters without the package that they need.
            PlanError: adapters would fill the zeros of a pruned student.
        """
        # Tied weights come once, under the first of their names.
        parameters, least, adapters = dict(self.student.named_parameters()), LEAST, None
        masks = [_kept(parameter) for parameter in parameters.values()]
        if self.method.lora_rank:
            if any(mask is not None for mask in masks):
                raise PlanError("Adapters would fill the zeros of this pruned model; learn all of its weights instead.")
            adapters = Adapters(self.student, self.method.lora_rank, course.seed)
            parameters, least, masks = adapters.parameters, 1.0, [None] * len(adapters.parameters)
        descent = Descent(parameters, self.method.rate, least)
        try:
            gradient = self._gradient(list(parameters.values()), masks)
            descent.run(gradient, windows, course, progress, "Distilling", state, keep)
        finally:
            self.losses = descent.losses
            if adapters is not None:
                adapters.fold()

    def divergence(self, windows: torch.Tensor) -> float:
        """Returns the mean KL of the student from the teacher, in nats per token, over windows [windows, tokens]."""
        plain = Distillation()

        def measured(window: torch.Tensor) -> float:
            with torch.no_grad():
                return float(plain.loss(self.student, self.teacher, window))

        return float(np.mean(list(ordered(measured, windows, compute_alone))))

    def values(self) -> dict[str, torch.Tensor]:
        """Returns the student's trained parameters so far, by name."""
        return {name: parameter.detach() for name, parameter in self.student.named_parameters()}

    def _gradient(self, parameters: list[nn.Parameter], masks: Sequence[torch.Tensor | None]) -> Gradient:
        def gradient(window: torch.Tensor) -> tuple[float, Sequence[torch.Tensor]]:
            loss = self.method.loss(self.student, self.teacher, window)
            found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            kept = [part if mask is None else part * mask for part, mask in zip(found, masks, strict=True)]
            return float(loss.detach()), kept

        return gradient


def _kept(parameter: torch.Tensor) -> torch.Tensor | None:
    """Mask of the weights that a pruned matrix has; None for one that was not pruned."""
    mask = parameter.detach() != 0
    pruned = parameter.ndim > 1 and 1 - float(mask.float().mean()) > PRUNED
    return mask if pruned else None


def hard_loss(student: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the mean cross entropy, in nats per token, of logits [tokens, vocabulary] against labels [tokens]."""
    return nn.functional.cross_entropy(student, labels)


def soft_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 times the mean KL(teacher || student) at temperature T, of logits [tokens, vocabulary]."""
    if temperature == 1:
        return divergence(student, teacher)
    return temperature**2 * divergence(student / temperature, teacher / temperature)


def hidden_loss(student: Hidden, teacher: Hidden) -> torch.Tensor:
    """Returns the mean over layers and tokens of |h - h'|^2 / |h'|^2, of states [tokens, width]."""
    pairs = zip(student, (teacher[i] for i in matched(len(student), len(teacher))), strict=True)
    errors = [((h - t).square().sum(-1) / t.square().sum(-1).clamp(min=TINY)).mean() for h, t in pairs]
    return torch.stack(errors).mean()


def matched(student: int, teacher: int) -> list[int]:
    """For each layer of the student the layer of the teacher that it is compared with, the last with the last.

    >>> matched(4, 4), matched(2, 4), matched(3, 8)
    ([0, 1, 2, 3], [1, 3], [2, 4, 7])
    """
    return [((i + 1) * teacher + student // 2) // student - 1 for i in range(student)]


def _states(output: Any) -> Hidden:
    """States after each block; the first are those before all blocks."""
    return [state[0] for state in output.hidden_states[1:]]
