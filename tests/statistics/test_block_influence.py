"""1 − cos of what goes into a block and what comes out: 0 for a block that only scales, and as computed by hand."""

from __future__ import annotations

import numpy as np
import torch

from mediant.statistics.block_influence import block_influence

TOKENS = torch.arange(2, 26).reshape(2, 12)


def test_it_is_the_angle_of_the_stream(tiny_network):
    network = tiny_network("llama")
    found = block_influence(network, TOKENS)
    states = [network(input_ids=w[None], output_hidden_states=True).hidden_states for w in TOKENS]
    a, b = (torch.cat([s[n][0] for s in states]).double().detach().numpy() for n in (0, 1))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    # Float32 states; the sum of 32 products is good to 32 roundings of each.
    assert abs(found[0] - (1 - cosines).mean()) <= 64 * np.finfo(np.float32).eps
    assert found.shape == (2,)


def test_a_block_that_only_scales_has_none(tiny_network):
    network = tiny_network("llama")
    network.model.layers[1].forward = lambda hidden_states, *_, **__: 2 * hidden_states
    found = block_influence(network, TOKENS)
    assert abs(found[1]) <= 64 * np.finfo(np.float64).eps
    assert found[0] > 0.01
