"""Which neurons of a dense MLP form which expert, so that a token needs few of them.

For a token with hidden activations h_j and the output's columns w_j, neuron j adds h_j w_j to the output. Each token
marks the neurons whose |h_j| ||w_j|| is largest. Those marked most often become the shared expert, which every token
uses; the rest is cut into experts of equal size whose neurons are marked by the same tokens, by k-means over the marks
with a balanced assignment in each round.

With all experts active nothing is lost: the sum over neurons is the same in another order.

Source: Pei et al. 2025, CMoE (arXiv 2502.04416), sections 3.2 and 3.3: activation markers, shared experts by rate,
balanced clustering by the Jonker-Volgenant algorithm. Deviations: 1. Marks go by |h_j| ||w_j||, what the neuron adds
to the output, not by |h_j|. 2. As many neurons are marked as will be active, where the paper marks a fixed few. 3. The
router is linear, since that is what transformers' mixtures have (`mediant.methods.experts.router`).

Cost: for R routed neurons and T tokens, each round T R experts multiply-adds and an assignment of R^3 in the worst
case; 0.2 s a round for R = 1152, minutes for R = 10 000.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

REFERENCES = (
    "Pei et al. 2025, CMoE: Converting Mixture-of-Experts from Dense to Accelerate LLM Inference, arXiv:2502.04416",
)
NEEDS = ("hidden activations",)

SHARED = 0
ROUNDS = 8

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Shape:
    """`experts` routed experts of which a token uses `active`, of `neurons` each, beside `shared` neurons."""

    experts: int
    active: int
    neurons: int
    shared: int


def shape_of(width: int, experts: int, active: float, shared_experts: int | None = None) -> Shape:
    """Returns the shape of an MLP of `width` neurons cut into `experts` equal parts, of which the share `active` is
    used.

    `shared_experts` of the parts together are the shared expert; by default half of those in use, rounded down.

    >>> shape_of(1536, 8, 0.5)
    Shape(experts=6, active=2, neurons=192, shared=384)

    Raises:
        ValueError: the width does not divide, or the parts do not come out whole.
    """
    if experts < 2 or width % experts:
        raise ValueError(f"{width} neurons cannot be cut into {experts} equal experts; give a divisor from 2")
    used = round(active * experts)
    if not 1 <= used <= experts or abs(used - active * experts) > 1e-6:
        raise ValueError(f"{active:.4g} of {experts} experts is not a whole number of them from 1")
    shared = used // 2 if shared_experts is None else shared_experts
    if not 1 <= shared < used:
        raise ValueError(f"{shared} of {used} experts in use cannot be shared: one must be, and one left to choose")
    return Shape(experts - shared, used - shared, width // experts, shared * (width // experts))


def split(hidden: torch.Tensor, down: torch.Tensor, shape: Shape) -> Labels:
    """Returns the expert of each neuron: 0 for the shared one, 1 to `shape.experts` for the others, [neurons].

    Args:
        hidden: activations of the neurons for some tokens, [tokens, neurons].
        down: the output's matrix, [hidden size, neurons].
        shape: how many of what.
    """
    marked = marks(hidden, down, shape.shared + shape.active * shape.neurons)
    rest = torch.argsort(marked.sum(0), descending=True, stable=True)[shape.shared :]
    labels = np.zeros(len(marked.T), np.int64)
    labels[rest.numpy()] = 1 + clusters(marked[:, rest], shape.experts)
    return labels


def marks(hidden: torch.Tensor, down: torch.Tensor, count: int) -> torch.Tensor:
    """1 for the `count` neurons that add most to a token's output, else 0, float32 [tokens, neurons]."""
    worth = hidden.abs() * down.norm(dim=0)
    return torch.zeros_like(worth).scatter_(1, worth.topk(count, dim=1).indices, 1.0)


def clusters(marked: torch.Tensor, count: int) -> Labels:
    """Returns a cluster 0 to `count` - 1 for each column of marks [tokens, neurons], all of one size.

    Begins with columns far from each other, and ends when a round changes nothing.
    """
    size = marked.shape[1] // count
    centers = marked[:, _spread_out(marked, count)]
    labels = np.full(marked.shape[1], -1)
    for _ in range(ROUNDS):
        # |a - c|^2 without |a|^2, which is the same for every cluster.
        distances = centers.square().sum(0) - 2 * (marked.T @ centers)
        found = balanced(distances.double().numpy(), size)
        if (found == labels).all():
            break
        labels = found
        centers = torch.stack([marked[:, labels == e].mean(1) for e in range(count)], dim=1)
    return labels


def balanced(costs: NDArray[np.float64], size: int) -> Labels:
    """Returns the cluster of each row of costs [rows, clusters], each taken `size` times, so that the sum is least.

    >>> balanced(np.array([[0.0, 5.0], [1.0, 2.0], [0.0, 9.0], [0.0, 8.0]]), 2).tolist()
    [1, 1, 0, 0]
    """
    _, places = linear_sum_assignment(np.repeat(costs, size, axis=1))
    return np.asarray(places // size, np.int64)


def _spread_out(marked: torch.Tensor, count: int) -> list[int]:
    """Returns columns to begin with: the one marked most often, then always the one farthest from those taken."""
    ones = marked.sum(0)
    chosen = [int(ones.argmax())]
    nearest = torch.full_like(ones, torch.inf)
    while len(chosen) < count:
        last = marked[:, chosen[-1]]
        nearest = torch.minimum(nearest, ones + last.sum() - 2 * (last @ marked))
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return chosen
