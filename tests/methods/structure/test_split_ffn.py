"""A dense model as a mixture: the same function with all experts active, refusals, routers that fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mediant.errors import PlanError
from mediant.methods.structure.split_ffn import decoded, encoded
from mediant.methods.structure.tune_experts import MixtureTuner, TuneExperts, fit_routers, mixtures
from mediant.progress import SILENT

WIDTH, LAYERS, EXPERTS = 48, 2, 3
TOKENS = torch.arange(3, 43).reshape(2, 20)


def labels_of(layer, width=WIDTH, shared=12, experts=EXPERTS):
    sizes = [shared] + [(width - shared) // experts] * experts
    return np.random.default_rng(layer).permutation(np.repeat(np.arange(experts + 1), sizes))


def edit(active, **changes):
    neurons = [encoded(labels_of(layer), EXPERTS) for layer in range(LAYERS)]
    return {"edit": "split_ffn", "experts": EXPERTS, "active": active, "neurons": neurons} | changes


def logits(network):
    with torch.no_grad():
        return network(input_ids=TOKENS).logits


def close(a, b, network):
    """Equal up to the order of sums of so many terms, in each of the layers' products one after another."""
    depth = network.config.num_hidden_layers * (2 * WIDTH + 4 * network.config.hidden_size)
    return bool((a - b).norm() <= 2 * depth * torch.finfo(a.dtype).eps * b.norm())


@pytest.mark.parametrize("name", ["llama", "llama_tied", "qwen2"])
def test_all_experts_active_is_the_dense_model(name, edited_network, tiny_network):
    dense, mixture = tiny_network(name), edited_network(name, edit(EXPERTS))
    assert type(mixture).__name__ == "Qwen2MoeForCausalLM"
    assert close(logits(mixture), logits(dense), dense)
    assert not close(logits(edited_network(name, edit(EXPERTS - 1))), logits(dense), dense)


def test_the_mixture_has_the_weights_of_the_model_and_routers(edited_network, tiny_network):
    count = sum(p.numel() for p in tiny_network("llama").parameters())
    hidden = tiny_network("llama").config.hidden_size
    mixture = edited_network("llama", edit(2))
    assert sum(p.numel() for p in mixture.parameters()) == count + LAYERS * (EXPERTS + 1) * hidden
    assert mixture.config.num_experts_per_tok == 2


def test_places_survive_their_text():
    labels = labels_of(0)
    assert (decoded(encoded(labels, EXPERTS), WIDTH, EXPERTS) == labels).all()


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("gpt2", {}, "'gpt2' cannot become"),
        ("mistral", {}, "sliding window"),
        ("llama", {"neurons": []}, "0 layers"),
        ("llama", {"active": 4}, "4 of 3"),
        ("llama", {"neurons": ["AAAA"] * LAYERS}, "not that of 48"),
        ("llama", {"neurons": ["?"] * LAYERS}, "not that of 48"),
        ("llama", {"neurons": [encoded(labels_of(0) % 2, EXPERTS)] * LAYERS}, "different number"),
        ("llama", {"neurons": [encoded(labels_of(0), EXPERTS), encoded(labels_of(0, shared=24), EXPERTS)]}, "layers"),
    ],
)
def test_what_does_not_fit_is_one_sentence(name, changes, words, edited_network):
    with pytest.raises(PlanError, match=words):
        edited_network(name, edit(2) | changes)


def test_routers_find_the_experts_that_matter(edited_network):
    """With energies that depend on the token, fitted routers lose less than equal ones, at the same experts a token."""
    mixture, dense = edited_network("llama", edit(1)), edited_network("llama", edit(EXPERTS))
    windows = torch.randint(0, 320, (16, 60), generator=torch.Generator().manual_seed(0))
    tuner = MixtureTuner(mixture, dense, "routers")
    before = tuner.divergence(windows)
    routers = fit_routers(mixture, windows, SILENT)
    assert set(routers) == {f"{path}.gate.weight" for path, _ in mixtures(mixture)}
    assert tuner.divergence(windows) < before


def test_learning_goes_on_where_it_was_stopped(edited_network):
    windows = torch.randint(0, 320, (9, 16), generator=torch.Generator().manual_seed(0))
    states = []

    def learned(state, steps=20):
        mixture, dense = edited_network("llama", edit(1)), edited_network("llama", edit(EXPERTS))
        keep = lambda s: states.append({k: v.clone() for k, v in s.items()})  # noqa: E731
        return TuneExperts(steps).train(mixture, dense, windows, SILENT, state, keep)

    whole = learned(None)
    again = learned(states[0])
    assert int(states[0]["done"]) == 10
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert any(".experts." in name for name in whole)


def test_a_model_without_experts_is_refused(tiny_network):
    with pytest.raises(PlanError, match="split_ffn"):
        TuneExperts().train(tiny_network("llama"), tiny_network("llama"), TOKENS, SILENT, None, lambda s: None)
