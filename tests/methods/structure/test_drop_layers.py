"""Dropping blocks equals skipping them in the forward pass, bit for bit, for every architecture that allows it."""

from __future__ import annotations

import pytest
import torch

from mediant.errors import PlanError
from mediant.methods.structure.drop_layers import DropLayers

CONFIG = {
    "num_hidden_layers": 4,
    "layer_types": ["a", "b", "c", "d"],
    "mlp_only_layers": [1, 3],
    "eos_token_id": [9, 8, 7, 6],
}


def test_lists_follow_and_others_do_not():
    config, _ = DropLayers((1,)).edited(CONFIG, {})
    expected = {"num_hidden_layers": 3, "layer_types": ["a", "c", "d"], "mlp_only_layers": [2]}
    assert config == CONFIG | expected
    assert CONFIG["num_hidden_layers"] == 4


@pytest.mark.parametrize("layers", [(), (4,), (-1,), (0, 1, 2, 3), ("1",), (True,)])
def test_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(PlanError, match="0 to 3"):
        DropLayers(layers).edited(CONFIG, {})


def skipping(network: torch.nn.Module, layer: int) -> None:
    """Makes the block of that index hand on what it is given."""
    blocks = next(m for m in network.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 2)
    blocks[layer].forward = lambda hidden_states, *_, **__: hidden_states


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", ["llama_tied", "qwen3", "gemma3", "opt", "gpt2", "mixtral"])
def test_the_model_computes_what_is_left(name, layer, edited_network, tiny_network):
    dropped = edited_network(name, {"edit": "drop_layers", "layers": [layer]})
    skipped = tiny_network(name)
    skipping(skipped, layer)
    tokens = torch.arange(2, 14)[None]
    with torch.inference_mode():
        left = dropped(input_ids=tokens, use_cache=False).logits
        expected = skipped(input_ids=tokens, use_cache=False).logits
        whole = tiny_network(name)(input_ids=tokens, use_cache=False).logits
    assert torch.equal(left, expected)
    assert not torch.equal(left, whole)
