"""Balanced assignment against all assignments, shapes, and clusters that are there to be found."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from mediant.methods.experts.neuron_clusters import Shape, balanced, clusters, marks, shape_of, split
from mediant.methods.experts.router import fitted


@pytest.mark.parametrize("seed", range(5))
def test_balanced_assignment_is_the_best_of_all(seed):
    costs = np.random.default_rng(seed).random((6, 3))
    found = balanced(costs, 2)
    assert np.bincount(found).tolist() == [2, 2, 2]
    best = min(costs[range(6), list(labels)].sum() for labels in set(permutations([0, 0, 1, 1, 2, 2])))
    # The same terms, perhaps added in another order.
    assert costs[range(6), found].sum() == pytest.approx(best, rel=6 * np.finfo(float).eps)


def test_shapes():
    assert shape_of(1536, 8, 0.5) == Shape(experts=6, active=2, neurons=192, shared=384)
    assert shape_of(48, 4, 0.75, 1) == Shape(experts=3, active=2, neurons=12, shared=12)
    assert shape_of(48, 4, 1.0) == Shape(experts=2, active=2, neurons=12, shared=24)


@pytest.mark.parametrize(
    ("width", "experts", "active", "shared", "words"),
    [
        (50, 4, 0.5, None, "cannot be cut"),
        (48, 1, 1.0, None, "cannot be cut"),
        (48, 4, 0.3, None, "not a whole number"),
        (48, 4, 0.0, None, "not a whole number"),
        (48, 4, 0.5, 2, "cannot be shared"),
        (48, 4, 0.5, 0, "cannot be shared"),
        (48, 4, 0.25, None, "cannot be shared"),
    ],
)
def test_impossible_shapes(width, experts, active, shared, words):
    with pytest.raises(ValueError, match=words):
        shape_of(width, experts, active, shared)


def test_marks_are_the_largest_additions():
    hidden, down = torch.tensor([[1.0, -3.0, 2.0]]), torch.tensor([[9.0, 1.0, 1.0]])
    assert marks(hidden, down, 2).tolist() == [[1, 1, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_neurons_that_fire_together_are_found(seed):
    """Three kinds of tokens, each with neurons of its own, beside neurons that always fire."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.tensor([0] * 4 + [1] * 6 + [2] * 6 + [3] * 6)[torch.randperm(22, generator=generator)]
    kinds = torch.randint(1, 4, (200,), generator=generator)
    fires = (truth[None] == kinds[:, None]) | (truth == 0)
    hidden = fires + 0.01 * torch.rand(200, 22, generator=generator)
    found = split(hidden, torch.ones(1, 22), Shape(experts=3, active=1, neurons=6, shared=4))
    assert ((found == 0) == (truth == 0).numpy()).all()
    assert {frozenset(np.flatnonzero(found == e)) for e in range(1, 4)} == {
        frozenset(np.flatnonzero(truth.numpy() == e)) for e in range(1, 4)
    }


def test_clusters_have_one_size():
    marked = (torch.rand(50, 24, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    assert np.bincount(clusters(marked, 4)).tolist() == [6] * 4


def test_a_linear_rule_is_found_again():
    """Shares that are a linear function of the token come out in their order."""
    generator = torch.Generator().manual_seed(0)
    x, rule = torch.randn(400, 6, generator=generator), torch.randn(6, 4, generator=generator)
    shares = 1 + 0.02 * (x @ rule)
    shares = shares / shares.sum(1, keepdim=True)
    chosen = (x @ fitted(x, shares).T).argmax(1)
    assert (chosen == shares.argmax(1)).float().mean() > 0.97


def test_dead_inputs_give_a_router_of_zeros():
    assert (fitted(torch.zeros(5, 3), torch.ones(5, 2)) == 0).all()
