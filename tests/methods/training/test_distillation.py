"""The loss by its formula, its gradient by finite differences, T^2, and the same bits after a stop on any threads."""

from __future__ import annotations

import copy

import pytest
import torch

from mediant.errors import PlanError
from mediant.methods.training._descent import Course, curve
from mediant.methods.training.distillation import (
    Distillation,
    Distiller,
    hard_loss,
    hidden_loss,
    matched,
    soft_loss,
)

WINDOW = 12


def networks(tiny_network, name="llama", spread=0.05):
    """A teacher and a student that is off by random numbers."""
    teacher, student = tiny_network(name), tiny_network(name)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return teacher, student


def windows_of(count, length=WINDOW):
    return torch.randint(320, (count, length), generator=torch.Generator().manual_seed(2))


def test_the_loss_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    s, t = (torch.randn(5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.tensor([0, 6, 3, 3, 1])
    p, q = (torch.softmax(x / 2.5, -1) for x in (t, s))
    by_hand = 2.5**2 * sum(float(p[i] @ (p[i].log() - q[i].log())) for i in range(5)) / 5
    assert float(soft_loss(s, t, 2.5)) == pytest.approx(by_hand, rel=1e-12)
    hard = -sum(float(torch.softmax(s[i], -1)[labels[i]].log()) for i in range(5)) / 5
    assert float(hard_loss(s, labels)) == pytest.approx(hard, rel=1e-12)


def test_the_terms_add_up(tiny_network):
    teacher, student = networks(tiny_network)
    window = windows_of(1)[0]

    def loss(**parameters):
        with torch.no_grad():
            return float(Distillation(**parameters).loss(student, teacher, window))

    hard, soft = loss(alpha=1.0), loss(alpha=0.0, temperature=2.0)
    assert loss(alpha=0.3, temperature=2.0) == pytest.approx(0.3 * hard + 0.7 * soft, rel=1e-5)
    states = loss(alpha=1.0, hidden=1.0) - hard
    assert loss(alpha=1.0, hidden=3.0) == pytest.approx(hard + 3 * states, rel=1e-4)
    # Labels are the tokens that come next, so the last position has none.
    logits = student(input_ids=window[None]).logits[0].detach()
    assert hard == pytest.approx(float(torch.nn.functional.cross_entropy(logits[:-1], window[1:])), rel=1e-6)


def test_a_student_that_equals_its_teacher_loses_nothing(tiny_network):
    teacher = tiny_network("llama")
    method = Distillation(hidden=1.0, temperature=3.0)
    assert float(method.loss(tiny_network("llama"), teacher, windows_of(1)[0])) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("method", [
    Distillation(alpha=0.25, temperature=2.0), Distillation(), Distillation(alpha=1.0), Distillation(hidden=0.5),
])  # fmt: skip
def test_the_gradient_is_that_of_finite_differences(tiny_network, method):
    teacher, student = (n.double() for n in networks(tiny_network))
    window = windows_of(1, 6)[0]
    parameters = dict(student.named_parameters())
    gradients = torch.autograd.grad(method.loss(student, teacher, window), list(parameters.values()))
    generator = torch.Generator().manual_seed(3)
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters.values()]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))

    def moved(step):
        with torch.no_grad():
            for parameter, direction in zip(parameters.values(), directions, strict=True):
                parameter.add_(step * direction)
            loss = float(method.loss(student, teacher, window))
            for parameter, direction in zip(parameters.values(), directions, strict=True):
                parameter.sub_(step * direction)
        return loss

    # Central differences err by the square of the step; halving it tells by how much.
    found = [(moved(h) - moved(-h)) / (2 * h) for h in (2e-6, 1e-6)]
    assert slope == pytest.approx(found[1], abs=4 * abs(found[0] - found[1]) + 1e-7 * abs(slope))
    assert abs(slope) > 1e-3


@pytest.mark.parametrize("temperature", [1.0, 10.0, 1000.0])
def test_t_squared_keeps_the_gradient(temperature):
    """For large T, T^2 KL becomes 1/2 mean |z - v|^2 of centred logits over the vocabulary (Hinton, equation 4)."""
    generator = torch.Generator().manual_seed(4)
    s, t = (torch.randn(3, 50, generator=generator, dtype=torch.float64) for _ in range(2))
    s.requires_grad_(True)
    (gradient,) = torch.autograd.grad(soft_loss(s, t, temperature), s)
    limit = ((s - s.mean(-1, keepdim=True)) - (t - t.mean(-1, keepdim=True))).detach() / (50 * len(s))
    size = float(gradient.norm() / limit.norm())
    # Without T^2 the gradient would be T^2 times smaller.
    assert 0.5 < size < 2
    if temperature == 1000.0:
        # The next term of the expansion is a logit over the temperature.
        torch.testing.assert_close(gradient, limit, rtol=0, atol=float(limit.abs().max()) * 10 / temperature)


def test_hidden_states_are_compared_token_by_token():
    h = torch.tensor([[3.0, 4.0], [300.0, 400.0]])
    off = h + torch.tensor([[5.0, 0.0], [0.0, 0.0]])
    assert float(hidden_loss([off], [h])) == pytest.approx(0.5)
    assert float(hidden_loss([h, off], [h, h, h, h])) == pytest.approx(0.25)
    assert matched(1, 5) == [4]
    for student, teacher in ((26, 30), (30, 30), (3, 4)):
        layers = matched(student, teacher)
        assert layers[-1] == teacher - 1
        assert len(set(layers)) == student


@pytest.mark.parametrize("name", ["llama_tied", "gpt2"])
def test_a_spoilt_student_learns(tiny_network, name):
    teacher, student = networks(tiny_network, name)
    distiller, windows = Distiller(student, teacher, Distillation(rate=5e-3)), windows_of(12)
    before = distiller.divergence(windows[:4])
    distiller.run(windows[4:], Course(60))
    assert distiller.divergence(windows[:4]) < 0.5 * before
    assert len(distiller.losses) == 60
    assert not any(p.requires_grad for p in teacher.parameters())


def test_a_stopped_run_ends_with_the_same_bits_on_any_threads(tiny_network, monkeypatch):
    states, ends = [], []
    for threads, state in (("1", None), ("2", None), ("2", lambda: states[0])):
        monkeypatch.setenv("MEDIANT_THREADS", threads)
        teacher, student = networks(tiny_network)
        distiller = Distiller(student, teacher, Distillation())
        course = Course(9, batch=3, seed=5, keep_every=4)
        distiller.run(windows_of(7), course, state=state and state(), keep=lambda s: states.append(copy.deepcopy(s)))
        ends.append((distiller.values(), distiller.losses))
    assert int(states[0]["done"]) == 4
    for values, losses in ends[1:]:
        assert losses == ends[0][1]
        assert all(torch.equal(values[name], ends[0][0][name]) for name in values)


def test_another_seed_is_another_order(tiny_network):
    ends = []
    for seed in (0, 1):
        teacher, student = networks(tiny_network)
        distiller = Distiller(student, teacher, Distillation())
        distiller.run(windows_of(6), Course(3, seed=seed))
        ends.append(distiller.losses)
    assert ends[0] != ends[1]


def test_a_curve_is_one_line():
    assert curve([]) == ""
    assert curve([1.0]) == "▁ 1.000"
    assert len(curve([float(i % 7) for i in range(1000)])) == len("0" * 24 + " 5.000")


def test_zeros_of_a_pruned_student_stay(tiny_network):
    teacher, student = tiny_network("llama"), tiny_network("llama")
    masks = {}
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "proj" in name:
                masks[name] = parameter.abs() > parameter.abs().median()
                parameter *= masks[name]
    distiller, windows = Distiller(student, teacher, Distillation(rate=5e-3)), windows_of(12)
    before = distiller.divergence(windows[:4])
    distiller.run(windows[4:], Course(30))
    assert distiller.divergence(windows[:4]) < before
    for name, parameter in student.named_parameters():
        if name in masks:
            assert torch.equal(parameter != 0, masks[name])
        else:
            # A few zeros elsewhere are no pattern.
            assert (parameter != tiny_network("llama").state_dict()[name]).any()
    with pytest.raises(PlanError, match="zeros"):
        Distiller(student, teacher, Distillation(lora_rank=2)).run(windows, Course(1))
