"""Several candidates at once get the figures that each gets alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from mediant.evaluation.divergence import compare
from mediant.evaluation.together import compare_all

VOCABULARY = 7


def network(seed):
    table = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    return lambda ids: table[ids]


def test_each_gets_its_own_figures_and_the_reference_runs_once_a_window():
    windows = torch.randint(VOCABULARY, (3, 8), generator=torch.Generator().manual_seed(0))
    calls = []

    def reference(ids):
        calls.append(ids)
        return network(1)(ids)

    candidates = [network(1), network(2), network(3)]
    together = compare_all(reference, candidates, windows)
    assert len(calls) == 3
    for candidate, found in zip(candidates, together, strict=True):
        alone = compare(network(1), candidate, windows)
        for field in dataclasses.fields(alone):
            np.testing.assert_array_equal(getattr(found, field.name), getattr(alone, field.name))
    assert together[0].kl == 0 < together[1].kl != together[2].kl
