"""The edit in the configuration, and what edited models compute: dense attention under the pattern's mask."""

from __future__ import annotations

import pytest
import torch

from mediant.discovery import make
from mediant.errors import PlanError
from mediant.methods.structure.attention import AttentionPattern

WINDOW = {"name": "sliding_window", "window": 5, "sinks": 0}
SINKS = {"name": "sliding_window", "window": 5, "sinks": 2}
QWEN = {"num_hidden_layers": 3, "use_sliding_window": False, "sliding_window": None,
        "layer_types": ["full_attention"] * 3}  # fmt: skip
GEMMA = {"num_hidden_layers": 2, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}


def edited(config, pattern, layers=()):
    return AttentionPattern(pattern, layers).edited(config, {})[0]


def test_a_window_goes_into_the_architectures_own_fields():
    types = ["full_attention", "sliding_attention", "full_attention"]
    changes = {"sliding_window": 5, "layer_types": types, "use_sliding_window": True}
    assert edited(QWEN, WINDOW, [1]) == QWEN | changes
    assert edited(GEMMA, WINDOW)["layer_types"] == ["sliding_attention"] * 2
    assert edited(GEMMA, WINDOW, [0]) == GEMMA | {"sliding_window": 5}
    assert edited({"n_layer": 2, "sliding_window": 4096}, WINDOW) == {"n_layer": 2, "sliding_window": 5}
    assert edited({"n_layer": 2, "sliding_window": None}, WINDOW) == {"n_layer": 2, "sliding_window": 5}


def test_what_they_cannot_say_goes_into_ours():
    ours = "mediant_attention_layers"
    assert edited(QWEN, SINKS, [1]) == QWEN | {ours: [None, SINKS, None]}
    assert edited(GEMMA, WINDOW, [1]) == GEMMA | {ours: [None, WINDOW]}
    assert edited({"n_layer": 2, "sliding_window": 4096}, WINDOW, [0])[ours] == [WINDOW, None]
    assert edited({"n_layer": 2, "sliding_window": 3}, WINDOW)[ours] == [WINDOW, WINDOW]
    twice = edited(edited({"n_layer": 2}, SINKS, [0]), {"name": "local", "block": 3}, [1])
    assert twice[ours] == [SINKS, {"name": "local", "block": 3, "before": 1}]
    assert edited(twice, WINDOW, [1])[ours] == [SINKS, WINDOW]


@pytest.mark.parametrize("layers", [[3], [-1], ["1"], [True]])
def test_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(PlanError, match="there are 0 to 2"):
        edited(QWEN, WINDOW, layers)


def test_patterns_that_do_not_exist_are_refused():
    with pytest.raises(PlanError, match="there are: block_sparse, local, sliding_window"):
        edited(QWEN, {"name": "spiral"})
    with pytest.raises(PlanError, match="has no parameter 'sinks'"):
        edited(QWEN, {"name": "local", "sinks": 4})


def masked(network, specs, tokens):
    """Logits of a network with dense attention under the mask of each layer's pattern."""
    length = tokens.shape[1]
    layers = next(m for m in network.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == len(specs))
    for layer, spec in zip(layers, specs, strict=True):
        pattern = make("attention", spec or {"name": "sliding_window", "window": length})
        x = torch.zeros(1, 1, length, 1)
        bias = torch.zeros(1, 1, length, length).masked_fill(~pattern.mask(x, x), torch.finfo(torch.float32).min)
        layer.register_forward_pre_hook(
            lambda m, args, kwargs, bias=bias: (args, kwargs | {"attention_mask": bias}), with_kwargs=True
        )
    network.set_attn_implementation("eager")
    with torch.inference_mode():
        return network(input_ids=tokens, use_cache=False).logits


@pytest.mark.parametrize(
    ("name", "pattern", "layers"),
    [
        ("llama", SINKS, [1]),
        ("llama_tied", {"name": "local", "block": 4}, []),
        ("qwen2", WINDOW, [0]),
        ("qwen3", {"name": "block_sparse", "block": 2, "near": 1, "first": 1, "stride": 3}, [0, 1]),
        ("gemma3", WINDOW, []),
        ("mixtral", WINDOW, [1]),
    ],
)
def test_the_edited_model_computes_it(name, pattern, layers, edited_network, tiny_network):
    network = edited_network(name, {"edit": "attention", "pattern": pattern, "layers": layers})
    tokens = torch.randint(2, 300, (1, 40), generator=torch.Generator().manual_seed(0))
    specs = [pattern if n in layers or not layers else None for n in range(2)]
    wanted = masked(tiny_network(name), specs, tokens)
    with torch.inference_mode():
        found = network(input_ids=tokens, use_cache=False).logits
        dense = tiny_network(name)(input_ids=tokens, use_cache=False).logits
    # Two float32 computations of two layers; sums have up to some hundred terms, and errors of each add up.
    tolerance = 1000 * 2.0**-24 * float(wanted.abs().max())
    assert float((found - wanted).abs().max()) <= tolerance
    assert float((dense - wanted).abs().max()) > 10 * tolerance
