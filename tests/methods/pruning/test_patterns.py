"""Every pattern keeps what it plans, in any stretches, and what it keeps is worth most."""

from __future__ import annotations

import numpy as np
import pytest

from mediant import discovery
from mediant.errors import PlanError

SPECS = [
    {"name": "unstructured", "sparsity": 0.5},
    {"name": "unstructured", "sparsity": 0.9},
    {"name": "unstructured", "sparsity": 0.37, "scope": "matrix"},
    {"name": "n_of_m"},
    {"name": "n_of_m", "n": 4, "m": 8},
    {"name": "n_of_m", "n": 12, "m": 24},
    {"name": "blocks", "sparsity": 0.5, "height": 2, "width": 8},
]
SCORES = np.random.default_rng(0).random((6, 48))


@pytest.mark.parametrize("spec", SPECS)
def test_it_keeps_what_it_plans(spec):
    pattern = discovery.make("pruning.patterns", spec)
    positions, mask = pattern.positions(6, 48), pattern.mask(SCORES)
    assert np.array_equal(positions.decode(positions.encode(mask)), mask)
    assert not positions.fault()
    stretches = [pattern.mask(SCORES[:, at : at + 24], at, 48) for at in (0, 24)]
    assert np.concatenate(stretches, axis=1).sum() == mask.sum()
    assert SCORES[mask].mean() > SCORES[~mask].mean()
    assert 48 % pattern.step == 0


def test_every_row_and_group_keeps_its_best():
    mask = discovery.make("pruning.patterns", SPECS[0]).mask(SCORES)
    assert (np.where(mask, SCORES, 9).min(1) > np.where(mask, 0, SCORES).max(1)).all()
    groups, kept = SCORES.reshape(-1, 4), discovery.make("pruning.patterns", SPECS[3]).mask(SCORES).reshape(-1, 4)
    assert (np.where(kept, groups, 9).min(1) > np.where(kept, 0, groups).max(1)).all()


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "unstructured", "sparsity": 1.0},
        {"name": "unstructured", "scope": "model"},
        {"name": "n_of_m", "n": 4, "m": 4},
        {"name": "n_of_m", "n": 2.0, "m": 4},
        {"name": "blocks", "height": 0},
        {"name": "nonesuch"},
    ],
)
def test_patterns_that_are_none_are_refused(spec):
    with pytest.raises(PlanError, match=r"pruning\.patterns"):
        discovery.make("pruning.patterns", spec)
