"""Shares against a loop over pairs; a network that is known to look nearby; no network that looks both ways."""

from __future__ import annotations

import pytest
import torch

from mediant.errors import ModelError
from mediant.models.opening import open_model
from mediant.statistics.attention_distance import Reach, attention_reach, local_layers, shares


def test_shares_are_those_of_a_loop_over_pairs():
    generator = torch.Generator().manual_seed(0)
    weights = (
        torch.randn(2, 3, 20, 20, generator=generator).masked_fill(~torch.ones(20, 20).tril().bool(), -1e9).softmax(-1)
    )
    wanted = torch.zeros(4, dtype=torch.float64)
    for w in weights.double().flatten(0, 1):
        for i in range(15, 20):
            for j in range(i + 1):
                part = 1 if j < 2 else 2 if i - j < 6 else 3
                wanted[part] += w[i, j]
                wanted[0] += w[i, j] * (i - j) * (part != 1)
    # Sums of float64 in another order; float32 weights are exact in it.
    torch.testing.assert_close(shares(weights, 6, 2), wanted / 30, rtol=200 * 2.0**-53, atol=0)
    assert float(shares(weights, 6, 2)[1:].sum()) == pytest.approx(1, abs=20 * 2.0**-24)


def tokens(length):
    return torch.randint(2, 300, (2, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "opt"])
def test_every_layer_is_measured(name, tiny_folder):
    model = open_model(str(tiny_folder(name)))
    found = attention_reach(model, tokens(60), 16)
    assert [reach.layer for reach in found] == [0, 1]
    for reach in found:
        assert reach.sinks + reach.near + reach.beyond == pytest.approx(1, abs=100 * 2.0**-24)
        # Random weights look everywhere.
        assert reach.beyond > 0.2
        assert reach.distance > 10
    assert local_layers(found) == []


def test_a_layer_with_a_window_does_not_look_beyond(tiny_folder):
    """Mistral's window is 16."""
    found = attention_reach(open_model(str(tiny_folder("mistral"))), tokens(60), 16)
    assert all(reach.beyond == 0 and reach.sinks == 0 for reach in found)
    assert local_layers(found) == [0, 1]
    wider = attention_reach(open_model(str(tiny_folder("mistral"))), tokens(60), 15)
    assert all(reach.beyond > 0 for reach in wider)


def test_local_is_little_beyond():
    assert local_layers([Reach(0, 3.0, 0.5, 0.495, 0.005), Reach(1, 3.0, 0.5, 0.4, 0.1)]) == [0]


def test_encoders_are_refused(tiny_folder):
    with pytest.raises(ModelError, match="looks both ways"):
        attention_reach(open_model(str(tiny_folder("bert"))), tokens(20), 4)


def test_windows_beyond_all_numbers_are_those_of_the_whole_text():
    weights = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    assert shares(weights, 10**400, 1).equal(shares(weights, 6, 1))
    assert shares(weights, 2, 10**400).equal(shares(weights, 2, 6))
