"""The closed form against autograd through its definition, and its laws."""

from __future__ import annotations

import pytest
import torch

from mediant.methods.training.divergence import divergence


def logits(seed, shape=(7, 33), spread=3.0):
    return spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def defined(student, teacher):
    p = teacher.softmax(-1)
    return (p * (teacher.log_softmax(-1) - student.log_softmax(-1))).sum(-1).mean()


@pytest.mark.parametrize("seed", range(5))
def test_value_and_gradient_are_those_of_the_definition(seed):
    teacher, ours, theirs = logits(seed), logits(seed + 10).requires_grad_(), logits(seed + 10).requires_grad_()
    found, wanted = divergence(ours, teacher), defined(theirs, teacher)
    torch.testing.assert_close(found, wanted)
    (3 * found).backward()
    (3 * wanted).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ours.grad, 0.99 * theirs.grad)


def test_it_is_zero_only_for_the_same_predictions():
    teacher = logits(0)
    assert float(divergence(teacher - 4, teacher)) == pytest.approx(0, abs=1e-12)
    assert float(divergence(teacher + logits(1), teacher)) > 0.1


def test_probabilities_of_zero_are_no_trouble():
    teacher = torch.tensor([[0.0, 1e9]])
    student = torch.tensor([[0.0, 0.0]], requires_grad=True)
    divergence(student, teacher).backward()
    torch.testing.assert_close(student.grad, torch.tensor([[0.5, -0.5]]))
