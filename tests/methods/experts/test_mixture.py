"""The sparse mixture against a loop over tokens, forward and backward, to a tolerance from the lengths of its sums."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mediant.methods.experts.mixture import Expert, Mixture, Settings
from mediant.methods.experts.routing import Routing, pairs

HIDDEN, NEURONS, EXPERTS, TOKENS = 12, 7, 5, 33
EPS = torch.finfo(torch.float64).eps


def expert(generator, gated=True, activation="silu", neurons=NEURONS):
    def random(rows, columns):
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64) / columns**0.5

    gate = random(neurons, HIDDEN) if gated else None
    return Expert(random(neurons, HIDDEN), random(HIDDEN, neurons), gate, activation)


def mixture(settings, gated=True, activation="silu", shared=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    router = torch.randn(EXPERTS, HIDDEN, generator=generator, dtype=torch.float64)
    experts = [expert(generator, gated, activation) for _ in range(EXPERTS)]
    return Mixture(router, experts, expert(generator, gated, activation, 9) if shared else None, settings)


def tokens(seed=1):
    return torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_token(layer, x):
    """The same by a loop: every token alone, expert after expert."""
    s = layer.settings
    rows = []
    routing = layer.routing(x)
    weights = torch.ones_like(routing.weights) if s.unit_weights else routing.weights
    room = None if s.factor is None else [-(-s.factor * TOKENS * s.k // EXPERTS)] * EXPERTS
    y = [torch.zeros(HIDDEN, dtype=x.dtype) for _ in x]
    for choice in range(s.k):
        for token, row in enumerate(x):
            e = int(routing.experts[token, choice])
            if room is None or room[e] > 0:
                out = layer.experts[e](row[None])[0]
                room = room if room is None else [r - (i == e) for i, r in enumerate(room)]
            else:
                out = row if s.overflow == "pass" else torch.zeros_like(row)
            y[token] = y[token] + weights[token, choice] * out
    for token, row in enumerate(x):
        rows.append(y[token] if layer.shared is None else y[token] + layer.shared(row[None])[0])
    return torch.stack(rows)


def close(a, b, additions):
    """Whether two sums of so many terms agree up to their order: twice the bound of Higham 2002, (4.4), on the norm."""
    return bool(
        (a - b).detach().norm() <= 2 * additions * EPS * max(float(b.detach().norm()), float(a.detach().norm()))
    )


# Terms in the longest sum that leads to an output, and to a gradient: products one after another, tokens for weights.
FORWARD = 2 * HIDDEN + 9 + EXPERTS + 4
BACKWARD = 2 * FORWARD + TOKENS


@pytest.mark.parametrize(
    ("gated", "activation"), [(True, "silu"), (True, "gelu"), (False, "relu"), (False, "relu_squared")]
)
@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(k=1, scores="sigmoid", normalised=False),
        Settings(k=EXPERTS, unit_weights=True),
        Settings(k=2, factor=0.7),
        Settings(k=3, factor=0.5, overflow="pass"),
    ],
    ids=str,
)
def test_equals_a_loop_over_tokens(settings, gated, activation):
    layer, x = mixture(settings, gated, activation), tokens().requires_grad_(True)
    output = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    parameters = [x, *layer.parameters()]

    def both(forward):
        y = forward(x)
        return y, torch.autograd.grad((y * output).sum(), parameters, allow_unused=True, materialize_grads=True)

    y, gradients = both(layer)
    expected, wanted = both(lambda x: by_token(layer, x))
    assert close(y, expected, FORWARD)
    assert all(close(g, w, BACKWARD) for g, w in zip(gradients, wanted, strict=True))


@pytest.mark.parametrize(
    "spoil", [lambda y: -y, lambda y: y * (1 + 1e-12), lambda y: y.index_fill(0, torch.tensor([3]), 0)]
)
def test_the_comparison_can_fail(spoil):
    y = mixture(Settings())(tokens())
    assert not close(spoil(y), y, FORWARD)
    assert not close(y * float("nan"), y, FORWARD)


def test_each_expert_runs_once_over_its_tokens():
    layer, x, seen = mixture(Settings(k=2)), tokens(), []
    for e in layer.experts:
        e.register_forward_hook(lambda module, inputs, y: seen.append(len(inputs[0])))
    layer(x)
    assert seen == [count for count in pairs(layer.routing(x)).counts if count]
    assert sum(seen) == 2 * TOKENS


def test_experts_without_tokens_are_not_called():
    layer, x = mixture(Settings(k=1)), tokens()
    layer.experts[2] = nn.Identity()
    layer.experts[2].forward = None
    routing = Routing(torch.full((TOKENS, 1), 4), torch.ones(TOKENS, 1, dtype=x.dtype), layer.routing(x).scores)
    assert close(layer.dispatched(x, routing), layer.experts[4](x), FORWARD)


def test_leading_axes_stay():
    layer, x = mixture(Settings()), tokens()
    assert close(layer(x.reshape(3, 11, HIDDEN)).reshape(TOKENS, HIDDEN), layer(x), FORWARD)


def test_no_room_at_all():
    layer, x = mixture(Settings(factor=0.0), shared=False), tokens()
    assert (layer(x) == 0).all()
