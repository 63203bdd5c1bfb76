"""Thinned models compute what the whole model does with the other parts at zero."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mediant.errors import PlanError
from mediant.methods.structure._index_sets import from_text, to_text
from mediant.methods.structure.keep_heads import KeepHeads
from mediant.methods.structure.keep_hidden import KeepHidden
from mediant.methods.structure.keep_neurons import KeepNeurons
from mediant.models.blocks import Blocks
from mediant.models.lazy import LazyTensor

TOKENS = torch.arange(2, 14)[None]


@given(st.sets(st.integers(0, 30)))
def test_index_sets_come_back(indices):
    assert from_text(to_text(indices, 31), 31) == sorted(indices)


@pytest.mark.parametrize("text", ["", "AQI", "AAAA", "////", 7, None])
def test_texts_that_are_no_sets_are_refused(text):
    with pytest.raises(PlanError, match="below 9"):
        from_text(text, 9)


def logits(network):
    with torch.inference_mode():
        return network(input_ids=TOKENS, use_cache=False).logits


def close(left, expected, columns):
    """Within the error of float32 sums over `columns` terms in another order, 30 of them behind one another."""
    return bool((left - expected).abs().max() <= 30 * columns * 2**-24 * expected.abs().max())


def zeroed(network, axes, dropped):
    """The network with entries of some axes at zero."""
    state = network.state_dict()
    for axis in axes:
        state[axis.tensor].index_fill_(axis.axis, torch.tensor(dropped[axis.layer]), 0)
    return network


@pytest.mark.parametrize("name", ["llama_tied", "qwen3", "gemma2", "opt", "phi", "gpt2"])
def test_neurons(name, tiny_network, edited_network):
    count = 4 * 32 if name == "gpt2" else 48
    dropped = [list(range(0, 2 * 11, 2)), list(range(count - 11, count))]
    kept = [to_text(set(range(count)) - set(d), count) for d in dropped]
    left = logits(edited_network(name, {"edit": "keep_neurons", "neurons": kept}))
    network = tiny_network(name)
    whole = logits(network)
    blocks = Blocks.of(network.state_dict())
    out_of = [a for a in blocks.neurons() if f".{blocks.scheme.out_of}." in a.tensor]
    expected = logits(zeroed(network, out_of, dropped))
    assert close(left, expected, 128)
    assert not close(left, whole, 128)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3", "gemma3"])
def test_heads_go_with_their_group(name, tiny_network, edited_network):
    left = edited_network(name, {"edit": "keep_heads", "groups": [to_text([1], 2), to_text([0], 2)]})
    assert (left.config.num_attention_heads, left.config.num_key_value_heads, left.config.head_dim) == (2, 1, 8)
    network = tiny_network(name)
    blocks = Blocks.of(network.state_dict())
    outputs = [a for a in blocks.queries() if f".{blocks.scheme.output}." in a.tensor]
    expected = logits(zeroed(network, outputs, [range(16), range(16, 32)]))
    assert close(logits(left), expected, 128)
    assert not close(logits(left), logits(tiny_network(name)), 128)


def test_hidden_components_that_are_zero_everywhere_change_nothing(tiny_network):
    """Then only the mean square of the norms is over fewer components, which the gains make up for."""
    network = tiny_network("qwen2")
    state = network.state_dict()
    kept, gone = [i for i in range(32) if i % 4], list(range(0, 32, 4))
    writers = ("down_proj.weight", "o_proj.weight", "o_proj.bias")
    for name, tensor in state.items():
        if name.endswith(writers) or "embed" in name:
            tensor.index_fill_(int("embed" in name), torch.tensor(gone), 0)
    norms = [name for name in state if name.endswith("norm.weight")]
    for gain, equal in (((32 / 24) ** 0.5, True), (1.0, False)):
        edit = KeepHidden(to_text(kept, 32), dict.fromkeys(norms, gain))
        lazy = {name: LazyTensor.of(tensor) for name, tensor in state.items()}
        config, narrowed = edit.edited(network.config.to_dict(), lazy)
        small = type(network)(type(network.config).from_dict(config)).eval()
        small.load_state_dict({name: tensor.read() for name, tensor in narrowed.items()})
        for norm in (m for n in (network, small) for m in n.modules() if hasattr(m, "variance_epsilon")):
            norm.variance_epsilon = 0
        assert small.config.hidden_size == 24
        assert close(logits(small), logits(network), 128) == equal


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (KeepNeurons(("AAAA",)), "each of 2 layers"),
        (KeepNeurons((to_text([1], 48), to_text([1, 2], 48))), "equally many"),
        (KeepNeurons((to_text([], 48), to_text([], 48))), "at least one"),
        (KeepHeads((to_text([1], 4), "")), "below 2"),
    ],
)
def test_sets_that_do_not_fit_are_one_sentence(edit, words, tiny_network):
    network = tiny_network("llama")
    with pytest.raises(PlanError, match=words):
        edit.edited(network.config.to_dict(), dict(network.state_dict()))


@pytest.mark.parametrize("name", ["opt", "gpt2"])
def test_heads_that_follow_from_the_width_stay(name, tiny_network):
    network = tiny_network(name)
    with pytest.raises(PlanError, match="hidden width"):
        KeepHeads(()).edited(network.config.to_dict(), dict(network.state_dict()))
    with pytest.raises(PlanError, match="no plain MLP"):
        Blocks.of(tiny_network("mixtral").state_dict())
