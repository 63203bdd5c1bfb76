"""Which experts a token goes to, with what weights, and the losses that keep a router in order.

For logits z [tokens, experts] and scores p = softmax(z) or sigmoid(z), each token goes to its k experts of highest
score. Weights are those scores, or, `normalised`, their shares of the sum over the k, which add up to 1.

Sources: Shazeer et al. 2017 (arXiv 1701.06538), section 2.1 and appendix A, for top-k and the squared coefficient of
variation; Fedus, Zoph and Shazeer 2021 (arXiv 2101.03961), equations 4 to 6, for the balancing loss and capacity;
Lepikhin et al. 2020 (arXiv 2006.16668), algorithm 1, for first choices before second ones; Zoph et al. 2022 (arXiv
2202.08906), equation 5, for the z-loss; DeepSeek-AI 2024 (arXiv 2412.19437), section 2.1.2, for sigmoid scores.
Deviations: 1. No noise is added to logits. 2. Shares of tokens count all k choices, divided by k, so that they add up
to 1 for any k.

Cost: tokens x experts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

REFERENCES = (
    "Shazeer et al. 2017, Outrageously Large Neural Networks: The Sparsely-Gated Mixture-of-Experts Layer, "
    "arXiv:1701.06538",
    "Fedus, Zoph and Shazeer 2021, Switch Transformers, arXiv:2101.03961",
    "Lepikhin et al. 2020, GShard, arXiv:2006.16668",
    "Zoph et al. 2022, ST-MoE: Designing Stable and Transferable Sparse Expert Models, arXiv:2202.08906",
)

Scores = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class Routing:
    """Where tokens go: `experts` and `weights` [tokens, k], best first, and the `scores` [tokens, experts]."""

    experts: Tensor
    weights: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Pairs:
    """Pairs of a token and one of its experts, those of expert 0 first; `counts` says how many each expert has.

    `tokens` and `choices` [pairs] are indices into `Routing.experts`.
    """

    tokens: Tensor
    choices: Tensor
    counts: tuple[int, ...]


def route(logits: Tensor, k: int, scores: Scores = "softmax", normalised: bool = True) -> Routing:
    """Returns the k best experts of every token.

    >>> routing = route(torch.tensor([[2.0, 0.0, 2.0]]), 2)
    >>> sorted(routing.experts[0].tolist()), routing.weights.tolist()
    ([0, 2], [[0.5, 0.5]])

    Raises:
        ValueError: k is not among 1 to the number of experts.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"each token goes to {k} of {logits.shape[-1]} experts; give a number from 1 to that of all")
    p = logits.softmax(-1) if scores == "softmax" else logits.sigmoid()
    weights, experts = p.topk(k, dim=-1)
    if normalised:
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return Routing(experts, weights, p)


def pairs(routing: Routing, capacity: int | None = None) -> Pairs:
    """Returns the pairs of a routing, sorted by expert.

    With a capacity, an expert takes at most so many tokens: all first choices in the order of the tokens, then the
    second ones, and so on. The others are left out.
    """
    tokens, experts = len(routing.experts), routing.scores.shape[-1]
    wanted = routing.experts.T.reshape(-1)
    order = wanted.argsort(stable=True)
    counts = torch.bincount(wanted, minlength=experts)
    if capacity is not None:
        rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[wanted[order]]
        order, counts = order[rank < capacity], counts.clamp(max=capacity)
    return Pairs(order % tokens, order // tokens, tuple(counts.tolist()))


def capacity_of(tokens: int, k: int, experts: int, factor: float) -> int:
    """Returns tokens that an expert takes at most: `factor` times the even share, rounded up.

    >>> capacity_of(100, 2, 8, 1.25)
    32
    """
    return math.ceil(factor * tokens * k / experts)


def shares(routing: Routing) -> Tensor:
    """Returns the share of all choices that fell on each expert, [experts]; they add up to 1."""
    chosen = torch.bincount(routing.experts.reshape(-1), minlength=routing.scores.shape[-1])
    return chosen / routing.experts.numel()


def balancing_loss(routing: Routing) -> Tensor:
    """E sum_e f_e P_e, with f the shares of choices and P the mean scores, scaled to add up to 1 for each token.

    It is 1 where either is uniform. Only P has a gradient, by which an expert loses score in proportion to how many
    tokens it gets.
    """
    p = routing.scores / routing.scores.sum(-1, keepdim=True)
    return len(p.T) * (shares(routing).to(p.dtype) * p.mean(0)).sum()


def variation_loss(routing: Routing) -> Tensor:
    """Returns the squared coefficient of variation of the experts' importance, their summed scores: 0 where it is
    uniform.
    """
    importance = routing.scores.sum(0)
    return importance.var(unbiased=False) / importance.mean().square()


def z_loss(logits: Tensor) -> Tensor:
    """Returns the mean of log(sum_e exp z_e)^2, which keeps logits small enough for narrow number formats."""
    return logits.logsumexp(-1).square().mean()
