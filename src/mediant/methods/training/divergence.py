"""KL between the predictions of two networks, with its gradient in closed form.

Of logits s (student) and t (teacher) [tokens, vocabulary], the mean over tokens of

    KL(softmax t || softmax s),    whose gradient by s is (softmax s - softmax t) / tokens.

Logits are the largest arrays of a small model, and autograd would keep and pass over several of their size; this keeps
one.

>>> t = torch.tensor([[0.0, 2.0], [1.0, -1.0]])
>>> float(divergence(t + 5, t)), float(divergence(torch.zeros(1, 2), torch.tensor([[0.0, 1e9]])))
(0.0, 0.6931471824645996)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from mediant.models.head_in_pieces import HeadInPieces

# A loss of a student's and a teacher's logits [tokens, vocabulary] at some positions, as a mean over these.
Loss = Callable[[torch.Tensor, torch.Tensor, slice], torch.Tensor]


class _Divergence(torch.autograd.Function):
    """Forwards all that backwards needs is known already: the difference of the probabilities."""

    @staticmethod
    def forward(ctx: Any, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        q, p = student.log_softmax(-1), teacher.log_softmax(-1)
        gap = p - q
        p.exp_()
        # Summed by token first, so that float32 does not add up millions of numbers one by one.
        divergence: torch.Tensor = torch.linalg.vecdot(p, gap).mean()
        ctx.save_for_backward(q.exp_().sub_(p))
        return divergence

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (difference,) = ctx.saved_tensors
        return difference * (gradients[0] / len(difference)), None


def divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Returns the mean KL of the student from the teacher, in nats per token; logits [tokens, vocabulary]. The teacher
    is fixed.
    """
    found: torch.Tensor = _Divergence.apply(student, teacher)  # type: ignore[no-untyped-call]
    return found


def loss_in_pieces(student: HeadInPieces, teacher: HeadInPieces, window: torch.Tensor) -> torch.Tensor:
    """Returns the divergence on a window of tokens [tokens], with the logits of only some positions in memory."""
    with torch.no_grad():
        target = teacher.outputs(window[None]).last_hidden_state
    return mean_in_pieces(student, teacher, student.outputs(window[None]).last_hidden_state, target, _of_piece)


def mean_in_pieces(
    student: HeadInPieces, teacher: HeadInPieces, found: torch.Tensor, target: torch.Tensor, loss: Loss
) -> torch.Tensor:
    """Returns the mean over tokens of a loss of logits, from the last hidden states [1, tokens, width] of both
    networks.

    Logits are computed again for the gradient. Against whole logits, sums are added in another order.
    """

    def piece(states: torch.Tensor, wanted: torch.Tensor, at: slice) -> torch.Tensor:
        with torch.no_grad():
            expected = teacher.logits(wanted)
        return states.shape[1] * loss(student.logits(states), expected, at)

    total = torch.zeros(())
    for at in student.pieces(found.shape[1]):
        total = total + checkpoint(piece, found[:, at], target[:, at], at, use_reentrant=False)
    return total / found.shape[1]


def _of_piece(student: torch.Tensor, teacher: torch.Tensor, at: slice) -> torch.Tensor:
    return divergence(student, teacher)
