"""Rounded inputs and caches: close at many bits, spoilt at few, undone; and balancing that changes nothing."""

from __future__ import annotations

import pytest
import torch

from mediant.errors import PlanError
from mediant.methods.equalization._folding import folded
from mediant.runtime.activations import (
    Activations,
    Recorder,
    linear_layers,
    logits,
    round_inputs,
    static_steps,
)

WINDOWS = torch.randint(320, (3, 20), generator=torch.Generator().manual_seed(0))


def change(network, activations):
    """Relative change of the logits."""
    with torch.no_grad():
        right = network(input_ids=WINDOWS[:1]).logits
        undo = round_inputs(network, activations)
        found = logits(network, activations)(WINDOWS[:1])
        undo()
        assert torch.equal(network(input_ids=WINDOWS[:1]).logits, right)
    return float((found - right).norm() / right.norm())


@pytest.mark.parametrize("spec", [{"name": "min_max"}, {"name": "percentile"}, {"name": "kl"}])
@pytest.mark.parametrize("per_channel", [False, True])
def test_static_steps_lose_less_with_more_bits(tiny_network, spec, per_channel):
    network = tiny_network("llama")
    inputs = Recorder(network).record(WINDOWS)
    assert inputs.keys() == linear_layers(network).keys()
    found = [change(network, Activations(b, static_steps(inputs, spec, b, per_channel))) for b in (3, 8)]
    assert 0 < found[1] < 0.05
    assert found[1] < found[0] / 2


def test_dynamic_steps_lose_less_with_more_bits(tiny_network):
    found = [change(tiny_network("llama_tied"), Activations(bits)) for bits in (3, 8, 15)]
    assert found[0] > 2 * found[1] > 20 * found[2] > 0


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_rounded_cache_loses_less_with_more_bits(tiny_network, name):
    network, right = tiny_network(name), tiny_network(name)(input_ids=WINDOWS[:1]).logits
    errors = []
    with torch.no_grad():
        for bits in (3, 8):
            errors.append(float((logits(network, Activations(cache_bits=bits))(WINDOWS[:1]) - right).norm()))
        plain = logits(network, Activations())(WINDOWS[:1])
    assert errors[0] > 4 * errors[1] > 0
    assert torch.equal(plain, right)


@pytest.mark.parametrize("name", ["llama", "llama_tied", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_balancing_is_folded_exactly(tiny_network, name, alpha):
    network = tiny_network(name)
    inputs = Recorder(network).record(WINDOWS)
    with torch.no_grad():
        right = network(input_ids=WINDOWS[:1]).logits
        state = network.state_dict()
        changed = folded(state, {p: i.maxima for p, i in inputs.items()}, type(network).__name__, alpha)
        moved = [key for key in state if not torch.equal(state[key], changed[key])]
        network.load_state_dict(changed)
        found = network(input_ids=WINDOWS[:1]).logits
    assert moved
    # Powers of two round nothing: a sum of products has the same terms, up to denormals.
    torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-6 * float(right.abs().max()))
    if alpha == 1.0:
        even = Recorder(network).record(WINDOWS)
        largest = even["model.layers.0.mlp.down_proj"].maxima
        assert float(largest.max() / largest.min()) <= 2 * (1 + 1e-5)


def test_balancing_other_networks_is_refused(tiny_network):
    network = tiny_network("gemma2")
    with pytest.raises(PlanError, match="Gemma2ForCausalLM"):
        folded(network.state_dict(), {}, "Gemma2ForCausalLM", 0.5)
