"""Rounded inputs: per token, in the balanced form, everywhere but at the head."""

from __future__ import annotations

import pytest
import torch

from mediant.evaluation.activations import round_inputs, rounded


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_token_is_within_half_of_its_own_step(bits):
    x = torch.randn(6, 33, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.arange(6)[:, None]
    step = x.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    found = rounded(x, bits)
    # Half a step, and float32 in the quotient and the product.
    assert ((found - x).abs() <= step * (0.5 + 2.0 ** (bits - 22))).all()
    assert (found / step).round().unique().numel() <= 2**bits - 1
    assert ((found - x).abs() > 0.25 * step).any()


def test_nothing_stays_nothing():
    assert not rounded(torch.zeros(2, 3), 8).any()


def test_a_balance_helps_where_one_channel_is_loud():
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    x[:, 3] *= 100
    factor = torch.ones(32)
    factor[3] = 0.01
    errors = [(rounded(x, 8, f) - x)[:, :3].square().mean() for f in (None, factor)]
    assert errors[1] < 0.01 * errors[0]


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_network_rounds_all_layers_but_its_head(tiny_network, name):
    network, ids = tiny_network(name), torch.arange(20)[None]
    exact = network(input_ids=ids)[0]
    head = network.get_output_embeddings()
    seen = []
    if head is not None:
        head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    round_inputs(network, 8, {})
    coarse = network(input_ids=ids)[0]
    assert 0 < (coarse - exact).abs().max() < 0.2 * exact.abs().max()
    if head is not None:
        assert torch.equal(head(seen[0]), coarse)
