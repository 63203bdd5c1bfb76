"""Squared gradients of the last hidden state against finite differences."""

from __future__ import annotations

import pytest
import torch

from mediant.statistics.output_gradients import STRIDE, components, squares


@pytest.fixture(scope="module")
def network(tiny_network):
    return tiny_network("llama").double().requires_grad_(False)


def window(length, seed=0):
    return torch.randint(320, (length,), generator=torch.Generator().manual_seed(seed))


def output(network, ids, component):
    states = network.base_model(input_ids=ids[None]).last_hidden_state[0]
    return float((states[STRIDE - 1 :: STRIDE] @ component).sum())


def test_they_are_those_of_finite_differences(network):
    name = "model.layers.0.mlp.up_proj.weight"
    parameter = dict(network.named_parameters())[name]
    component = torch.randn(32, generator=torch.Generator().manual_seed(1)).double()
    ids = window(2 * STRIDE)
    parameter.requires_grad_(True)
    found = squares(network, {name: parameter}, ids, component)[name]
    parameter.requires_grad_(False)
    # Llama's norms compute in float32, so that an output near 10 is known to about 1e-6.
    step = 1e-2
    for row, column in ((0, 0), (3, 5), (17, 20)):
        old = float(parameter[row, column])
        sides = []
        for sign in (1, -1):
            parameter[row, column] = old + sign * step
            sides.append(output(network, ids, component))
        parameter[row, column] = old
        slope = (sides[0] - sides[1]) / (2 * step)
        # Differences err by step² times a third derivative, and by 1e-6 / step: a slope of 0.1 to about 1 %.
        assert float(found[row, column]) ** 0.5 == pytest.approx(abs(slope), rel=1e-2, abs=1e-3)
    assert found.shape == parameter.shape


def test_what_nothing_depends_on_has_none(network):
    head = dict(network.named_parameters())["lm_head.weight"].requires_grad_(True)
    weight = dict(network.named_parameters())["model.layers.1.mlp.down_proj.weight"].requires_grad_(True)
    found = squares(network, {"head": head, "weight": weight}, window(STRIDE), torch.ones(32).double())
    assert not found["head"].any()
    assert found["weight"].any()
    network.requires_grad_(False)


def test_components_are_orthonormal_and_sorted(network):
    windows = torch.stack([window(4 * STRIDE, seed) for seed in range(20)])
    found = components(network, windows).double()
    eye = torch.eye(32).double()
    # float32 vectors of 32 numbers.
    assert (found @ found.T - eye).abs().max() < 32 * torch.finfo(torch.float32).eps
    with torch.no_grad():
        states = [network.base_model(input_ids=w[None]).last_hidden_state[0, STRIDE - 1 :: STRIDE] for w in windows]
    spread = (torch.cat(states) @ found.T).var(dim=0)
    assert (spread.diff() <= 1e-6 * spread[0]).all()
