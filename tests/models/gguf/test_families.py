"""A network written as llama.cpp's converter does, and read, computes the same logits to the bit.

Names of tensors and keys come from the gguf package; order of rows, norms and fused matrices are said once more here,
apart from the code under test.
"""

import re

import gguf
import numpy as np
import pytest
import torch
import transformers

from mediant.errors import ModelError
from mediant.models.gguf.file import GGUFFile
from mediant.models.gguf.network import network

SMALL = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": None, "eos_token_id": None,
    "pad_token_id": None,
}  # fmt: skip
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ROTATED = ("llama", "granite")

NETWORKS = {
    "llama": ("llama", "LlamaForCausalLM", {"rms_norm_eps": 1e-3, "rope_parameters": {"rope_theta": 500.0}}),
    "llama_tied": ("llama", "LlamaForCausalLM", {"tie_word_embeddings": True}),
    "llama_attention_biases": ("llama", "LlamaForCausalLM", {"attention_bias": True}),
    "llama_all_biases": ("llama", "LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    "llama_wide_heads": ("llama", "LlamaForCausalLM", {"head_dim": 24}),
    "mixtral": ("llama", "MixtralForCausalLM", {"num_local_experts": 4, "num_experts_per_tok": 3}),
    "qwen2": ("qwen2", "Qwen2ForCausalLM", {}),
    "qwen3": ("qwen3", "Qwen3ForCausalLM", {"head_dim": 24}),
    "qwen2moe": ("qwen2moe", "Qwen2MoeForCausalLM", {**MIXTURE, "shared_expert_intermediate_size": 48}),
    "qwen3moe": ("qwen3moe", "Qwen3MoeForCausalLM", {**MIXTURE, "head_dim": 24, "norm_topk_prob": True}),
    "gemma": ("gemma", "GemmaForCausalLM", {"head_dim": 24}),
    "gemma2": (
        "gemma2", "Gemma2ForCausalLM",
        {"head_dim": 24, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.0,
         "sliding_window": 8},
    ),
    "gemma3": (
        "gemma3", "Gemma3ForCausalLM",
        {"head_dim": 24, "query_pre_attn_scalar": 24, "sliding_window": 8, "num_hidden_layers": 7,
         "rope_parameters": {
             "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
             "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
         }},
    ),
    "phi3": ("phi3", "Phi3ForCausalLM", {"sliding_window": 8}),
    "gpt2": (
        "gpt2", "GPT2LMHeadModel",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 96, "layer_norm_epsilon": 1e-3},
    ),
    "starcoder2": ("starcoder2", "Starcoder2ForCausalLM", {"norm_epsilon": 1e-3}),
    "stablelm": ("stablelm", "StableLmForCausalLM", {"use_qkv_bias": True}),
    "stablelm_parallel": ("stablelm", "StableLmForCausalLM", {"use_parallel_residual": True}),
    "phi2": ("phi2", "PhiForCausalLM", {"layer_norm_eps": 1e-3}),
    "gpt_oss": (
        "gpt-oss", "GptOssForCausalLM",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 8},
    ),
    "granite": (
        "granite", "GraniteForCausalLM",
        {"embedding_multiplier": 3.0, "logits_scaling": 4.0, "residual_multiplier": 0.5, "attention_multiplier": 0.1},
    ),
    "olmo2": ("olmo2", "Olmo2ForCausalLM", {}),
}  # fmt: skip
"""llama.cpp's architecture, the class in transformers, and numbers that differ from all defaults."""


def tiny(name, **changes):
    """The network of that name, every parameter random."""
    _, kind, settings = NETWORKS[name]
    network_class = getattr(transformers, kind)
    own = {} if kind.startswith("GPT2") else SMALL
    settings = {"vocab_size": 320, "bos_token_id": None, "eos_token_id": None, **own, **settings, **changes}
    network = network_class(network_class.config_class(**settings))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        center = float(parameter.ndim == 1)
        parameter.data = center + 0.1 * torch.randn(parameter.shape, generator=generator)
    network.tie_weights()
    return network.eval()


def numbers(name, network):
    """Keys of the header and their values, as llama.cpp's converter takes them from a configuration."""
    c = network.config
    heads = c.num_attention_heads
    kv = getattr(c, "num_key_value_heads", None) or heads
    found = {
        "context_length": c.max_position_embeddings,
        "embedding_length": c.hidden_size,
        "block_count": c.num_hidden_layers,
        "feed_forward_length": c.n_inner if name == "gpt2" else c.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": kv,
        "vocab_size": c.vocab_size,
    }
    for key, ours in (
        ("rms_norm_eps", "rms_"),
        ("layer_norm_epsilon", ""),
        ("layer_norm_eps", ""),
        ("norm_epsilon", ""),
    ):
        if hasattr(c, key):
            found[f"attention.layer_norm_{ours}epsilon"] = float(getattr(c, key))
    rope = getattr(c, "rope_parameters", None) or {}
    full = rope.get("full_attention", rope)
    head = getattr(c, "head_dim", None) or c.hidden_size // heads
    if full:
        found["rope.freq_base"] = float(full["rope_theta"])
        found["rope.dimension_count"] = int(head * full.get("partial_rotary_factor", 1.0))
        found |= {"attention.key_length": head, "attention.value_length": head}
    if full.get("rope_type") in ("linear", "yarn"):
        found |= {"rope.scaling.type": full["rope_type"], "rope.scaling.factor": float(full["factor"])}
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(c, key, None):
            found[key] = float(getattr(c, key))
    if name in ("gemma2", "gemma3", "phi3", "gpt_oss"):
        found["attention.sliding_window"] = c.sliding_window
    count = getattr(c, "num_local_experts", None) or getattr(c, "num_experts", None)
    if count:
        found |= {"expert_count": count, "expert_used_count": c.num_experts_per_tok}
    for key, ours in (("moe_intermediate_size", "expert_feed_forward_length"),
                      ("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
                      ("embedding_multiplier", "embedding_scale"), ("logits_scaling", "logit_scale"),
                      ("residual_multiplier", "residual_scale"), ("attention_multiplier", "attention.scale"),
                      ("use_parallel_residual", "use_parallel_residual")):  # fmt: skip
        if hasattr(c, key):
            found[ours] = getattr(c, key)
    if name == "gpt_oss":
        found["expert_feed_forward_length"] = c.intermediate_size
        found |= {"rope.scaling.original_context_length": full["original_max_position_embeddings"]}
    return found


def tensors(name, network):
    """Names and values in the file."""
    architecture = NETWORKS[name][0]
    kind = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == architecture)
    names = gguf.get_tensor_name_map(kind, network.config.num_hidden_layers)
    seen = set()
    for key, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        value = tensor.detach().float().numpy()
        if "experts." in key and "shared" not in key:
            yield from experts(name, key, value)
            continue
        ours = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if key.endswith("sinks"):
            ours = f"blk.{key.split('.')[2]}.attn_sinks.weight"
        if name in ("llama", "mixtral", "granite") or name.startswith("llama"):
            heads = {"q_proj": network.config.num_attention_heads, "k_proj": network.config.num_key_value_heads}
            module = key.split(".")[-2] if "." in key else ""
            if module in heads:
                halves = value.reshape(heads[module], 2, -1, *value.shape[1:])
                value = halves.swapaxes(1, 2).reshape(value.shape)
        if name.startswith("gemma") and key.endswith("norm.weight"):
            value = value + np.float32(1)
        if name == "gpt2" and value.ndim == 2 and ".h." in key:
            value = value.T
        if "shared_expert_gate" in key:
            value = value.reshape(-1)
        yield ours, np.ascontiguousarray(value)


def experts(name, key, value):
    layer = key.split(".")[2]
    ending = "bias" if "bias" in key else "weight"
    if name == "gpt_oss":
        value = value if ending == "bias" else value.swapaxes(1, 2)
        pieces = {"gate": value[:, ::2], "up": value[:, 1::2]} if "gate_up" in key else {"down": value}
    elif "gate_up" in key:
        half = value.shape[1] // 2
        pieces = {"gate": value[:, :half], "up": value[:, half:]}
    else:
        pieces = {"down": value}
    for piece, values in pieces.items():
        yield f"blk.{layer}.ffn_{piece}_exps.{ending}", np.ascontiguousarray(values)


def write(file, architecture, header, contents):
    """A GGUF file of these numbers and tensors."""
    writer = gguf.GGUFWriter(file, architecture)
    for key, value in header.items():
        put = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        (writer.add_array if isinstance(value, list) else put[type(value)])(f"{architecture}.{key}", value)
    for name, value in contents:
        writer.add_tensor(name, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture
def gguf_file(tmp_path):
    """Writes the network of that name, with keys and tensors changed, added, or left out where they are None."""

    def make(name, network=None, keys=None, more=None):
        network = network or tiny(name)
        header = {k: v for k, v in (numbers(name, network) | (keys or {})).items() if v is not None}
        contents = {k: v for k, v in (dict(tensors(name, network)) | (more or {})).items() if v is not None}
        return write(tmp_path / f"{name}.gguf", NETWORKS[name][0], header, contents.items())

    return make


def loaded(file):
    """The network in a file, with the values that are read from it."""
    found = network(GGUFFile.open(file))
    built = getattr(transformers, found.config.architectures[0])(found.config)
    state = {name: tensor.read() for name, tensor in found.tensors.items()}
    _, unexpected = built.load_state_dict(state, strict=False)
    assert not unexpected
    built.tie_weights()
    return built.eval()


def logits(model):
    tokens = torch.arange(3, 60).reshape(1, -1)
    with torch.inference_mode():
        return model(input_ids=tokens).logits


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_the_same_to_the_bit(name, gguf_file):
    original = tiny(name)
    read = loaded(gguf_file(name, original))
    ours, theirs = read.state_dict(), original.state_dict()
    assert ours.keys() == theirs.keys()
    close = 2e-7 if name.startswith("gemma") else 0.0  # one was added to norms and taken off again
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=close)
    torch.testing.assert_close(logits(read), logits(original), rtol=0, atol=100 * close)


SCALINGS = {
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32},
}


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_scaled_rotary_frequencies(name, scaling, gguf_file):
    original = tiny(name, rope_parameters=SCALINGS[scaling])
    torch.testing.assert_close(logits(loaded(gguf_file(name, original))), logits(original), rtol=0, atol=0)


def llama3_tensor(rope, head):
    """The factors that llama.cpp's converter writes for Llama 3.1, in its own loop."""
    factors = []
    for i in range(0, head, 2):
        wave = 2 * np.pi * rope["rope_theta"] ** (i / head)
        low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
        high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
        if wave < high:
            factors.append(1.0)
        elif wave > low:
            factors.append(rope["factor"])
        else:
            smooth = (rope["original_max_position_embeddings"] / wave - rope["low_freq_factor"]) / (
                rope["high_freq_factor"] - rope["low_freq_factor"]
            )
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3_by_its_tensor_of_factors(gguf_file, factor):
    rope = {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    original = tiny("llama", head_dim=64, rope_parameters=rope)
    more = {"rope_freqs.weight": llama3_tensor(rope, 64)}
    read = loaded(gguf_file("llama", original, more=more))
    assert read.config.rope_parameters == original.config.rope_parameters
    torch.testing.assert_close(logits(read), logits(original), rtol=0, atol=0)
    more = {"rope_freqs.weight": llama3_tensor(rope, 64) * np.float32(1.01)}
    with pytest.raises(ModelError, match="not Llama 3's"):
        loaded(gguf_file("llama", original, more=more))


def test_phi_3_for_long_texts(gguf_file):
    short, long = [1.0 + n / 10 for n in range(8)], [2.0 + n for n in range(8)]
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": short, "long_factor": long}
    original = tiny("phi3", rope_parameters=rope, original_max_position_embeddings=32)
    more = {"rope_factors_short.weight": np.float32(short), "rope_factors_long.weight": np.float32(long)}
    read = loaded(gguf_file("phi3", original, {"rope.scaling.original_context_length": 32}, more))
    torch.testing.assert_close(logits(read), logits(original), rtol=0, atol=1e-4)
    with pytest.raises(ModelError, match="needs both"):
        loaded(gguf_file("phi3", original, more=more | {"rope_factors_short.weight": None}))


def test_some_biases_are_completed_with_zeros(gguf_file):
    """Qwen's weights in a Llama have biases of queries, keys and values alone."""
    original = tiny("llama_attention_biases")
    for layer in original.model.layers:
        layer.self_attn.o_proj.bias.data.zero_()
    more = {f"blk.{n}.attn_output.bias": None for n in range(2)}
    read = loaded(gguf_file("llama_attention_biases", original, more=more))
    torch.testing.assert_close(logits(read), logits(original), rtol=0, atol=0)


LEFT = {
    "blk.0.attn_norm.bias": 64,
    "blk.1.ffn_gate_shexp.weight": 64,
    "blk.0.attn_q.scale": 1,
    "blk.2.attn_norm.weight": 64,
    "v.patch_embd.weight": 64,
    "blk.0.nextn.eh_proj.weight": 64,
}


@pytest.mark.parametrize("name", LEFT)
def test_a_tensor_without_a_place_is_refused_by_name(gguf_file, name):
    with pytest.raises(ModelError, match=f"no place for 1 tensors .*{re.escape(name)}"):
        loaded(gguf_file("llama", more={name: np.ones(LEFT[name], np.float32)}))


UNKNOWN = {
    "attention.sliding_window": 8, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 5.0, "logit_scale": 2.0,
    "embedding_scale": 2.0, "residual_scale": 0.5, "attention.clamp_kqv": 5.0, "attention.max_alibi_bias": 8.0,
    "attention.causal": False, "nextn_predict_layers": 1, "expert_used_count": 2, "rope.dimension_sections": [1, 2],
    "rope.scaling.yarn_log_multiplier": 0.1, "rope.scaling.attn_factor": 2.0, "attention.temperature_scale": 0.1,
    "something.new": "yes", "expert_shared_count": 1, "attention.scale": 0.5, "leading_dense_block_count": 1,
}  # fmt: skip


@pytest.mark.parametrize("key", UNKNOWN)
def test_a_number_without_a_place_is_refused_by_name(gguf_file, key):
    with pytest.raises(ModelError, match=rf"llama\.{re.escape(key)} = "):
        loaded(gguf_file("llama", keys={key: UNKNOWN[key]}))


def test_numbers_that_change_nothing_pass(gguf_file):
    neutral = {"expert_count": 0, "expert_used_count": 0, "attention.clamp_kqv": 0.0, "rope.scaling.type": "none",
               "rope.scaling.factor": 4.0, "rope.scaling.finetuned": True, "attention.causal": True}  # fmt: skip
    original = tiny("llama")
    torch.testing.assert_close(logits(loaded(gguf_file("llama", original, neutral))), logits(original), rtol=0, atol=0)


def changed(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return "yarn" if value != "yarn" else "linear"
    return value * 2


@pytest.mark.parametrize("name", NETWORKS)
def test_every_number_of_the_header_counts(name, gguf_file):
    """Whichever number is changed, the configuration is another one or the file is refused."""
    original = tiny(name)
    before = network(GGUFFile.open(gguf_file(name, original))).config.to_dict()
    for key, value in numbers(name, original).items():
        try:
            after = network(GGUFFile.open(gguf_file(name, original, {key: changed(value)}))).config.to_dict()
        except ModelError:
            continue
        assert after != before or (key, name[:8]) == ("use_parallel_residual", "stablelm"), key


@pytest.mark.parametrize("name", NETWORKS)
def test_a_missing_tensor_is_refused(name, gguf_file):
    for missing in ("output_norm.weight", "blk.1.attn_norm.weight"):
        if name != "olmo2" or missing.startswith("output"):
            with pytest.raises(ModelError, match="lack tensors of the network, 1 in all"):
                network(GGUFFile.open(gguf_file(name, more={missing: None})))


def test_layers_that_differ(gguf_file):
    with pytest.raises(ModelError, match=r"different llama\.attention\.head_count_kv \(1, 2\)"):
        loaded(gguf_file("llama", keys={"attention.head_count_kv": [1, 2]}))
    original = tiny("llama")
    read = loaded(gguf_file("llama", original, {"attention.head_count_kv": [2, 2], "feed_forward_length": [96, 96]}))
    torch.testing.assert_close(logits(read), logits(original), rtol=0, atol=0)
