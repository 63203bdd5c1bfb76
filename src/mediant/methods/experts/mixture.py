"""A mixture of experts with real sparse dispatch: each expert is called once, with its own tokens and no others.

y(x) = shared(x) + sum over the token's k experts e of w_e(x) f_e(x), with f_e an MLP, gated or plain, and routing as in
`mediant.methods.experts.routing`. Tokens are gathered in the order of their experts, so that every expert is two or
three dense products over a block of neighbouring rows; nothing is computed for experts that a token does not use.

Over an expert's capacity a token is `drop`ped: that expert adds nothing to it, and the residual connection around the
layer carries it on; or `pass`ed: its own input stands for that expert's output, for a layer without such a connection.
Use a capacity where all experts have to take equal time, such as one expert a device; on one CPU it only loses.

Cost: k / experts of the products of a dense layer of all experts, forward and backward; 2 k rows of inputs a token are
copied. Memory: activations of k experts a token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mediant.methods.experts.routing import Pairs, Routing, Scores, capacity_of, pairs, route

Overflow = Literal["drop", "pass"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "relu_squared": lambda x: functional.relu(x).square(),
}


@dataclass(frozen=True)
class Settings:
    """How a mixture routes; `factor` is its capacity in even shares, None for no limit.

    `unit_weights` gives every chosen expert the weight 1, whatever its score, as neurons of a dense layer have it.
    """

    k: int = 2
    scores: Scores = "softmax"
    normalised: bool = True
    unit_weights: bool = False
    factor: float | None = None
    overflow: Overflow = "drop"


class Expert(nn.Module):
    """An MLP [hidden] -> [hidden] of some neurons: down(act(gate x) * up x), or down(act(up x)) without a gate.

    Weights lie as in torch, [outputs, inputs].
    """

    def __init__(self, up: Tensor, down: Tensor, gate: Tensor | None = None, activation: str = "silu") -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(up), nn.Parameter(down)
        self.gate = None if gate is None else nn.Parameter(gate)
        self.activation = activation

    def hidden(self, x: Tensor) -> Tensor:
        """Returns the neurons' activations for tokens [tokens, hidden], before the last product: [tokens, neurons]."""
        act, up = ACTIVATIONS[self.activation], functional.linear(x, self.up)
        return act(up) if self.gate is None else act(functional.linear(x, self.gate)) * up

    def forward(self, x: Tensor) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]."""
        return functional.linear(self.hidden(x), self.down)


class Mixture(nn.Module):
    """Experts, of which each token uses k, and one that all tokens use, if there is any.

    Args:
        router: [experts, hidden], whose product with a token gives its logits.
        experts: of any kind that maps [tokens, hidden] to the same shape.
        shared: one more, that every token uses.
        settings: how tokens are routed.
    """

    def __init__(
        self,
        router: Tensor,
        experts: list[nn.Module],
        shared: nn.Module | None = None,
        settings: Settings | None = None,
    ) -> None:
        super().__init__()
        self.router = nn.Parameter(router)
        self.experts = nn.ModuleList(experts)
        self.shared = shared
        self.settings = settings or Settings()

    def routing(self, x: Tensor) -> Routing:
        """Routes tokens [tokens, hidden] to experts."""
        s = self.settings
        return route(functional.linear(x, self.router), s.k, s.scores, s.normalised)

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> [..., hidden]."""
        flat = x.reshape(-1, x.shape[-1])
        y = self.dispatched(flat, self.routing(flat))
        return (y if self.shared is None else y + self.shared(flat)).reshape(x.shape)

    def dispatched(self, x: Tensor, routing: Routing) -> Tensor:
        """Returns the routed experts' part of the output for tokens [tokens, hidden]."""
        s = self.settings
        if s.unit_weights:
            routing = Routing(routing.experts, torch.ones_like(routing.weights), routing.scores)
        limit = None if s.factor is None else capacity_of(len(x), s.k, len(self.experts), s.factor)
        taken = pairs(routing, limit)
        y = dispatch(x, routing, taken, list(self.experts))
        return y + x * _left_out(routing, taken)[:, None] if s.overflow == "pass" and limit is not None else y


def dispatch(x: Tensor, routing: Routing, taken: Pairs, experts: list[nn.Module]) -> Tensor:
    """Returns the sum of each token's weighted experts, [tokens, hidden]; each expert that has tokens is called
    once.
    """
    inputs = x[taken.tokens].split(taken.counts)
    parts = [expert(part) for expert, part in zip(experts, inputs, strict=True) if len(part)]
    if not parts:
        return torch.zeros_like(x)
    weights = routing.weights[taken.tokens, taken.choices]
    return torch.zeros_like(x).index_add(0, taken.tokens, torch.cat(parts) * weights[:, None])


def _left_out(routing: Routing, taken: Pairs) -> Tensor:
    """Returns the weight of each token's choices that were not taken, [tokens]."""
    kept = torch.zeros_like(routing.weights, dtype=torch.bool)
    kept[taken.tokens, taken.choices] = True
    return routing.weights.masked_fill(kept, 0).sum(-1)
