"""Scores against independent computations, SparseGPT against brute force."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from mediant import discovery
from mediant.methods.layer import Layer, Term
from mediant.methods.pruning.patterns.n_of_m import NOfM
from mediant.methods.pruning.patterns.unstructured import Unstructured
from mediant.methods.pruning.scores.sparsegpt import SparseGPT, recursion, refitted, upper_factor
from mediant.values import LayerStatistics

EPS = np.finfo(np.float64).eps


def layer(rows=5, columns=8, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(40, columns)) @ generator.normal(size=(columns, columns))
    hessian, fisher = x.T @ x / 40, generator.random(rows) + 0.1
    statistics = LayerStatistics(np.diag(hessian).copy(), x.mean(0), fisher, 40)
    matrix = generator.normal(size=(rows, columns)).astype(np.float32)
    return Layer(matrix, (Term(fisher, hessian),), statistics)


def loss(found, given, metric):
    error = found - given.matrix.astype(np.float64)
    return np.einsum("ij,jk,ik->i", error, metric, error)


def least_squares(row, metric, kept):
    """The best weights of one row on the columns `kept`, by the normal equations."""
    best = np.zeros(len(row))
    best[kept] = np.linalg.solve(metric[np.ix_(kept, kept)], metric[kept] @ row)
    return best


def test_wanda_is_what_its_paper_says():
    given = layer()
    mask, weights = discovery.make("pruning.scores", {"name": "wanda"}).prune(given, Unstructured(0.5))
    for row, kept, left in zip(given.matrix, mask, weights, strict=True):
        score = [abs(float(w)) * np.sqrt(h) for w, h in zip(row, given.statistics.input_square, strict=True)]
        assert set(np.flatnonzero(kept)) == set(sorted(range(8), key=lambda j: -score[j])[:4])
        assert np.array_equal(left, np.where(kept, row, 0))


def test_influence_is_the_loss_of_each_weight_alone():
    given = layer()
    mask, _ = discovery.make("pruning.scores", {"name": "influence"}).prune(given, Unstructured(0.5, "matrix"))
    costs = np.empty(given.matrix.shape)
    for place in np.ndindex(given.matrix.shape):
        without = given.matrix.copy()
        without[place] = 0
        costs[place] = given.loss(without)
    assert costs[mask].min() > costs[~mask].max()


@pytest.mark.parametrize("name", discovery.names("pruning.scores"))
@pytest.mark.parametrize("pattern", [Unstructured(0.5), NOfM(2, 4), Unstructured(0.7, "matrix")])
def test_every_score_fills_the_pattern(name, pattern):
    given = layer()
    mask, weights = discovery.make("pruning.scores", {"name": name}).prune(given, pattern)
    assert pattern.positions(5, 8).encode(mask).size
    assert (weights[~mask] == 0).all()
    assert np.isfinite(weights).all()


@pytest.mark.parametrize("seed", range(5))
def test_sparsegpt_ends_at_the_least_squares_of_its_mask(seed):
    given, method = layer(seed=seed), SparseGPT(refits=50)
    mask, weights = method.prune(given, Unstructured(0.5))
    metric = given.terms[0].columns + method.damping * np.trace(given.terms[0].columns) / 8 * np.eye(8)
    condition = np.linalg.cond(metric)
    for row, kept, left in zip(given.matrix.astype(np.float64), mask, weights, strict=True):
        best = least_squares(row, metric, np.flatnonzero(kept))
        assert np.abs(left - best).max() <= 100 * condition * EPS * np.abs(row).max()
        assert np.abs(row * kept - best).max() > 100 * condition * EPS * np.abs(row).max()


def test_sparsegpt_is_near_the_best_of_all_masks():
    """Against every mask with its own least squares; magnitude and Wanda without update are far above."""
    totals = dict.fromkeys(("best", "sparsegpt", "wanda", "magnitude"), 0.0)
    for seed in range(8):
        given = layer(rows=2, seed=seed)
        metric = given.terms[0].columns + 0.01 * np.trace(given.terms[0].columns) / 8 * np.eye(8)
        for row in given.matrix.astype(np.float64):
            one = Layer(row[None].astype(np.float32), (), None)
            masks = [np.array(c) for c in combinations(range(8), 4)]
            totals["best"] += min(loss(least_squares(row, metric, m)[None], one, metric)[0] for m in masks)
        for name in ("sparsegpt", "wanda", "magnitude"):
            _, weights = discovery.make("pruning.scores", {"name": name}).prune(given, Unstructured(0.5))
            totals[name] += loss(weights, given, metric).sum()
    assert totals["best"] <= totals["sparsegpt"] < 0.5 * totals["wanda"] < totals["magnitude"]


def test_the_recursion_is_surgery_column_by_column():
    """The same as removing one weight after the other with the inverse Hessian of the columns that are left."""
    given = layer()
    metric = given.terms[0].columns + 0.05 * np.eye(8)
    matrix = torch.from_numpy(given.matrix.astype(np.float64))
    mask, weights = recursion(matrix, upper_factor(torch.from_numpy(metric)), NOfM(2, 4), 4)
    slow = given.matrix.astype(np.float64)
    for j in range(8):
        inverse = np.linalg.inv(metric[j:, j:])
        for row in range(len(slow)):
            if not mask[row, j]:
                slow[row, j:] -= slow[row, j] / inverse[0, 0] * inverse[0]
    slow[~mask.numpy()] = 0
    assert np.abs(weights.numpy() - slow).max() <= 100 * np.linalg.cond(metric) * EPS * np.abs(slow).max()


def test_refitting_never_raises_the_error():
    given = layer(columns=12, rows=6)
    metric = torch.from_numpy(given.terms[0].columns + 0.05 * np.eye(12))
    matrix = torch.from_numpy(given.matrix.astype(np.float64))
    mask = torch.from_numpy(np.random.default_rng(1).random((6, 12)) < 0.5)
    start = torch.where(mask, matrix, 0.0)
    losses = [loss(refitted(start, matrix, mask, metric, n).numpy(), given, metric.numpy()) for n in range(9)]
    for before, after in pairwise(losses):
        assert (after <= before + 100 * EPS * losses[0]).all()
    assert (losses[-1] < losses[0]).any()
