"""Networks of transformers with our patterns, against the same networks with dense attention under the same masks."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, StaticCache

from mediant import discovery
from mediant.errors import UsageError
from mediant.runtime.attention_patterns import LAYERS, PLANNED, places
from mediant.runtime.loading import load

PATTERNS = [
    {"name": "sliding_window", "window": 6, "sinks": 2},
    {"name": "local", "block": 5},
    {"name": "block_sparse", "block": 3, "near": 1, "first": 1, "stride": 2},
]
SINKLESS = {"name": "sliding_window", "window": 6, "sinks": 0}
LEAST = torch.finfo(torch.float32).min


def with_pattern(network, pattern):
    setattr(network.config, LAYERS, [pattern] * network.config.num_hidden_layers)
    network.set_attn_implementation(PLANNED)
    return network


def tokens_of(rows, length, seed=0):
    return torch.randint(2, 300, (rows, length), generator=torch.Generator().manual_seed(seed))


def mask_of(pattern, length):
    x = torch.zeros(1, 1, length, 1)
    return discovery.make("attention", pattern).mask(x, x)


def dense(network, pattern, tokens):
    """Logits with eager attention under the pattern's mask."""
    network.set_attn_implementation("eager")
    mask = mask_of(pattern, tokens.shape[1])
    bias = torch.zeros(mask.shape).masked_fill(~mask, LEAST).expand(len(tokens), 1, -1, -1)
    places = torch.arange(tokens.shape[1])[None]
    with torch.inference_mode():
        return network(input_ids=tokens, attention_mask=bias, position_ids=places, use_cache=False).logits


def close(found, wanted):
    """Whether two float32 computations of two layers agree; the errors of sums of some hundred terms add up."""
    return float((found - wanted).abs().max()) <= 1000 * 2.0**-24 * float(wanted.abs().max())


CAUSAL = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi", "opt", "gpt2", "mixtral", "qwen3_moe"]


@pytest.mark.parametrize("name", CAUSAL)
def test_every_architecture_computes_it(name, tiny_network):
    tokens = tokens_of(2, 40)
    wanted = dense(tiny_network(name), SINKLESS, tokens)
    network = with_pattern(tiny_network(name), SINKLESS)
    with torch.inference_mode():
        assert close(network(input_ids=tokens).logits, wanted)
        assert not close(tiny_network(name)(input_ids=tokens).logits, wanted)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_chunks_and_steps_with_a_cache(pattern, tiny_network):
    tokens = tokens_of(2, 60)
    wanted = dense(tiny_network("llama"), pattern, tokens)
    network = with_pattern(tiny_network("llama"), pattern)
    for cache in (None, StaticCache(network.config, max_cache_len=64)):
        done, parts = 0, []
        for length in (17, 1, 1, 20, 1, 20):
            with torch.inference_mode():
                out = network(input_ids=tokens[:, done : done + length], past_key_values=cache, use_cache=True)
            cache, done = out.past_key_values, done + length
            parts.append(out.logits)
        assert close(torch.cat(parts, 1), wanted)


def generated_dense(network, pattern, tokens, steps):
    for _ in range(steps):
        newest = dense(network, pattern, tokens)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, newest], 1)
    return tokens


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_generation_is_that_of_the_masked_model(name, pattern, tiny_network):
    if name == "gemma2":
        pattern = SINKLESS
    tokens = tokens_of(2, 20)
    wanted = generated_dense(tiny_network(name), pattern, tokens, 15)
    network = with_pattern(tiny_network(name), pattern)
    network.generation_config.eos_token_id = None
    found = network.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=15)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_padding_on_the_left_changes_nothing(pattern, tiny_network):
    network = with_pattern(tiny_network("llama"), pattern)
    network.generation_config.eos_token_id = None
    short, long = tokens_of(1, 13), tokens_of(1, 20, 1)
    both = torch.cat([torch.nn.functional.pad(short, (7, 0), value=1), long])
    mask = torch.ones_like(both)
    mask[0, :7] = 0
    settings = {"do_sample": False, "max_new_tokens": 12}
    found = network.generate(both, attention_mask=mask, **settings)
    for row, alone in ((found[0, 7:], short), (found[1], long)):
        assert torch.equal(row, network.generate(alone, attention_mask=torch.ones_like(alone), **settings)[0])


def test_padding_on_the_right_changes_nothing(tiny_network):
    network = with_pattern(tiny_network("llama"), PATTERNS[0])
    tokens = tokens_of(2, 20)
    mask = torch.ones_like(tokens)
    mask[0, 13:] = 0
    with torch.inference_mode():
        found = network(input_ids=tokens, attention_mask=mask).logits
        assert close(found[:1, :13], network(input_ids=tokens[:1, :13]).logits)


@pytest.mark.parametrize("name", discovery.names("attention"))
def test_the_names_of_the_methods_take_their_defaults(name, tiny_network):
    """600 tokens: enough for every default to leave pairs out."""
    tokens = tokens_of(1, 600)
    network = tiny_network("llama")
    wanted = dense(tiny_network("llama"), {"name": name}, tokens)
    network.set_attn_implementation(f"mediant_{name}")
    with torch.inference_mode():
        found = network(input_ids=tokens).logits
        assert close(found, wanted)
        network.set_attn_implementation("sdpa")
        assert not close(network(input_ids=tokens).logits, wanted)


def test_from_pretrained_takes_the_names(tiny_folder):
    network = AutoModelForCausalLM.from_pretrained(tiny_folder("llama"), attn_implementation="mediant_local")
    assert network.config._attn_implementation == "mediant_local"


def test_training_goes_through(tiny_network):
    pattern, tokens = PATTERNS[0], tokens_of(2, 30)
    losses = []
    for network in (with_pattern(tiny_network("llama"), pattern), tiny_network("llama")):
        if not losses:
            logits = network(input_ids=tokens).logits
        else:
            network.set_attn_implementation("eager")
            bias = torch.zeros(30, 30).masked_fill(~mask_of(pattern, 30), LEAST).expand(2, 1, -1, -1)
            logits = network(input_ids=tokens, attention_mask=bias).logits
        logits.logsumexp(-1).sum().backward()
        losses.append([p.grad for p in network.parameters()])
    assert all(close(one, two) for one, two in zip(*losses, strict=True))


def test_a_layers_own_window_stays(tiny_network):
    """Mistral's of 16 is narrower than the default of 512."""
    tokens = tokens_of(1, 60)
    network = tiny_network("mistral")
    with torch.inference_mode():
        wanted = network(input_ids=tokens).logits
        network.set_attn_implementation("mediant_sliding_window")
        assert close(network(input_ids=tokens).logits, wanted)
    found = network.generate(tokens, do_sample=False, max_new_tokens=10)
    network.set_attn_implementation("sdpa")
    assert torch.equal(found, network.generate(tokens, do_sample=False, max_new_tokens=10))


def test_what_the_patterns_do_not_offer_is_refused(tiny_network, tiny_folder):
    tokens = tokens_of(2, 12)
    llama = with_pattern(tiny_network("llama"), SINKLESS)
    hole = torch.ones_like(tokens)
    hole[0, 5] = 0
    for settings, message in [
        ({"attention_mask": hole}, "padding between real tokens"),
        ({"attention_mask": torch.zeros(2, 1, 12, 12)}, r"\(batch, tokens\), not \(2, 1, 12, 12\)"),
        ({"position_ids": torch.arange(12).remainder(6)[None], "use_cache": False}, "packed"),
    ]:
        with pytest.raises(UsageError, match=message):
            llama(input_ids=tokens, **settings)
    llama.model.layers[0].self_attn.attention_dropout = 0.1
    with pytest.raises(UsageError, match="no dropout"):
        llama.train()(input_ids=tokens)
    with pytest.raises(UsageError, match="learned sinks"):
        with_pattern(tiny_network("gpt_oss"), SINKLESS)(input_ids=tokens)
    bert = AutoModel.from_pretrained(tiny_folder("bert"), attn_implementation="mediant_local")
    with pytest.raises(UsageError, match="causal"):
        bert(input_ids=tokens)


def test_masks_in_chunks_are_refused():
    from transformers.masking_utils import chunked_causal_mask_function

    chunks = chunked_causal_mask_function(8, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(UsageError, match="in chunks"):
        places(1, 1, 13, 12, 0, chunks, local_size=8)
    assert places(1, 1, 5, 4, 0, chunks, local_size=8).tolist() == [[[[4, 0, 8]]]]


def test_a_checkpoint_comes_with_its_patterns(tiny_checkpoint, tiny_network, tmp_path):
    folder = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "edited")
    config = json.loads((folder / "config.json").read_text())
    pattern = PATTERNS[0]
    (folder / "config.json").write_text(json.dumps(config | {LAYERS: [pattern, None]}))
    tokens, network = tokens_of(1, 40), tiny_network("llama")
    setattr(network.config, LAYERS, [pattern, None])
    network.set_attn_implementation(PLANNED)
    with torch.inference_mode():
        wanted = network(input_ids=tokens).logits
        for loaded in (load(folder), AutoModelForCausalLM.from_pretrained(folder)):
            assert torch.equal(loaded(input_ids=tokens).logits, wanted)
        # Saved dense, it still has them; who asks for another implementation gets that.
        loaded.save_pretrained(tmp_path / "dense")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "dense")
        assert torch.equal(again(input_ids=tokens).logits, wanted)
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", attn_implementation="sdpa")
        assert close(plain(input_ids=tokens).logits, tiny_network("llama")(input_ids=tokens).logits)
        assert not close(plain(input_ids=tokens).logits, wanted)
