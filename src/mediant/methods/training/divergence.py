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

from typing import Any

import torch


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
    """Mean KL of the student from the teacher, in nats per token; logits [tokens, vocabulary]. The teacher is fixed."""
    found: torch.Tensor = _Divergence.apply(student, teacher)  # type: ignore[no-untyped-call]
    return found
