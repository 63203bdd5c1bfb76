"""Every token reaches its k best experts, once each; balance is best where it is uniform."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mediant.methods.experts.routing import (
    Routing,
    balancing_loss,
    capacity_of,
    pairs,
    route,
    shares,
    variation_loss,
    z_loss,
)

EPS = torch.finfo(torch.float64).eps
shapes = st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))


def logits_of(tokens, experts, seed):
    return torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(shapes, st.integers(1, 12), st.sampled_from(["softmax", "sigmoid"]))
def test_the_k_best_with_weights_of_sum_one(shape, k, scores):
    logits = logits_of(*shape)
    k = min(k, shape[1])
    routing = route(logits, k, scores)
    assert (routing.experts.sort().values == logits.sort(descending=True).indices[:, :k].sort().values).all()
    assert (routing.weights.sum(-1) - 1).abs().max() <= k * EPS


def test_unnormalised_weights_are_the_scores():
    logits = logits_of(9, 5, 0)
    routing = route(logits, 2, normalised=False)
    assert (routing.weights == logits.softmax(-1).gather(1, routing.experts)).all()


@given(shapes, st.integers(1, 12))
def test_dispatch_covers_every_token_k_times(shape, k):
    routing = route(logits_of(*shape), min(k, shape[1]))
    taken = pairs(routing)
    sent = set(zip(taken.tokens.tolist(), taken.choices.tolist(), strict=True))
    assert len(taken.tokens) == len(sent) == routing.experts.numel()
    owners = torch.arange(shape[1]).repeat_interleave(torch.tensor(taken.counts))
    assert (routing.experts[taken.tokens, taken.choices] == owners).all()


@given(shapes, st.integers(1, 12), st.integers(0, 20))
def test_capacity_serves_first_choices_then_earlier_tokens(shape, k, capacity):
    routing = route(logits_of(*shape), min(k, shape[1]))
    taken, queue = pairs(routing, capacity), [[] for _ in range(shape[1])]
    for choice, column in enumerate(routing.experts.T.tolist()):
        for token, expert in enumerate(column):
            queue[expert].append((token, choice))
    served = [pair for waiting in queue for pair in waiting[:capacity]]
    assert list(zip(taken.tokens.tolist(), taken.choices.tolist(), strict=True)) == served
    assert list(taken.counts) == [min(capacity, len(waiting)) for waiting in queue]


def test_capacity_is_the_even_share_times_the_factor():
    assert [capacity_of(64, 2, 8, f) for f in (0.5, 1.0, 1.01)] == [8, 16, 17]


@pytest.mark.parametrize("k", [0, 4])
def test_impossible_k_is_refused(k):
    with pytest.raises(ValueError, match="of 3 experts"):
        route(torch.zeros(2, 3), k)


def routing_to(chosen, experts):
    """Tokens that go to one expert each with score 1."""
    index = torch.tensor(chosen)[:, None]
    return Routing(index, torch.ones(len(chosen), 1), torch.eye(experts, dtype=torch.float64)[index[:, 0]])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_balance_is_best_where_it_is_uniform(chosen):
    routing = routing_to(chosen, 5)
    uniform = len(set(map(chosen.count, range(5)))) == 1
    assert float(shares(routing).sum()) == pytest.approx(1, abs=5 * EPS + 1e-6)
    losses = float(balancing_loss(routing)) - 1, float(variation_loss(routing))
    # Cauchy and Schwarz: 5 sum f^2 >= (sum f)^2, with equality only where all are alike. f is float32.
    assert all(loss >= -1e-6 for loss in losses)
    assert all((loss < 1e-6) == uniform for loss in losses)


def test_crowded_experts_lose_score():
    logits = torch.zeros(10, 3, dtype=torch.float64, requires_grad=True)
    crowded = routing_to([0] * 8 + [1, 2], 3)
    balancing_loss(Routing(crowded.experts, crowded.weights, logits.softmax(-1))).backward()
    assert (logits.grad[:, 0] > 0).all()
    assert (logits.grad[:, 1:] < 0).all()


def test_z_loss_pulls_the_normaliser_to_one():
    logits = logits_of(7, 4, 1)
    centred = logits - logits.logsumexp(-1, keepdim=True)
    assert float(z_loss(centred)) <= 16 * EPS**2 * 4 + EPS**2
    assert float(z_loss(centred + 3)) == pytest.approx(9, rel=16 * EPS)
