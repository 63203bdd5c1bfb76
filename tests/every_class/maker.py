"""Makes a tiny random model of any class of transformers: its usual configuration, with every size made small."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto as auto

VOCABULARY = 320
LAYERS, HEADS, GROUPS, HEAD, WIDTH, INNER, EXPERTS = 2, 4, 2, 8, 32, 48, 4
LISTS = {
    "causal": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "masked": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "encoder": auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
}
# Small sizes, each with patterns of the names of entries that have it; the first that matches counts, and what matches
# none stays as it is.
SIZES: tuple[tuple[int, str], ...] = (
    (1, r"pad_token_id eos_token_id"),
    (0, r"bos_token_id"),
    (VOCABULARY - 1, r"\w+_token_id"),
    (2, r"type_vocab_size"),
    (VOCABULARY, r"(\w+_)?vocab_size(_\w+)?"),
    (2, r"num_experts_per_tok(en)? moe_top_?k top_?k(_experts)? moe_k num_selected_experts moe_num_active_\w+"),
    (1, r"n_group topk_group num_expert_group (moe_)?num_shared_experts n_shared_experts"),
    (1, r"(mamba_)?n_groups mamba_ngroups"),
    (EXPERTS, r"(\w+_)?(num|n)_(\w+_)?experts expert_num"),
    (GROUPS, r"(\w+_)?(num|n)_(key_value|kv)_heads? multi_query_group_num n_head_kv"),
    (HEADS, r"linear_num_\w*heads mamba_n_heads n_mamba_heads mamba_num_heads num_query_groups"),
    (HEADS, r"(\w+_)?(num|n)_(\w+_)?heads? (\w+_)?attention_heads"),
    (2 * HEAD, r"mamba_d_head mamba_head_?dim attention_head_dim"),
    (2 * WIDTH, r"attention_hidden_size mamba_d_ssm"),
    (HEAD // 2, r"rotary_dim"),
    (HEAD, r"(\w+_)?head_dim head_size d_kv kv_channels d_head attention_head_size head_width"),
    (8, r"\w*low_rank_dim \w*_rank hidden_size_per_layer_input (mamba_)?(d_state|state_size|ssm_state_size)"),
    (16, r"moe_intermediate_size expert_ffn_hidden_size \w*experts?_intermediate_size"),
    (
        INNER,
        r"(\w+_)?intermediate_size(_\w+)? ffn_hidden_size \w*ffn_dim d_?ff n_inner inner_dim (\w+_)?mlp_dim \w*ff_dim",
    ),
    (0, r"(num|n)_(kv_shared|shared|hidden_fc|dense|nextn\w*|mtp\w*|hash)_\w*layers first_k_dense_replace"),
    (LAYERS, r"(num|n)_(\w+_)?layers? (en|de)coder_layers num_blocks (\w+_)?num_hidden_layers num_hidden_groups"),
    (
        WIDTH,
        r"(\w+_)?(hidden_size|d_model|n_embd|embed_dim|embedding_size|embedding_dim|embed_proj_dim|emb_dim|model_dim|dim)",
    ),
    (WIDTH, r"(\w+_)?(hidden_dim|lru_width|d_embed|embedding_hidden_size|conv_channels|out_channel)"),
    (128, r"(\w+_)?max_position_embeddings n_positions n_ctx max_seq_len(gth)? max_length seq_length model_max_length"),
    (128, r"max_sequence_length context_length block_size max_(target|source)_positions"),
    (16, r"(\w+_)?sliding_window local_attention attention_window_size sliding_window_size window_size"),
    (16, r"attention_chunk_size (mamba_)?chunk_size patch_size"),
    (32, r"image_size"),
)
# Entries that follow from others or have no meaning in so small a model: left out, so that the class finds them anew.
LEFT_OUT = (
    "torch_dtype",
    "dtype",
    "transformers_version",
    "architectures",
    "time_step_rank",
    "per_layer_config",
    "qk_head_dim",
)
# What a class needs beside: entries of its configuration, by model type.
ENTRIES: Mapping[str, Mapping[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dbrx": {
        "attn_config": {"kv_n_heads": GROUPS, "clip_qkv": 8, "rope_theta": 1e4},
        "ffn_config": {"hidden_size": WIDTH, "ffn_hidden_size": INNER, "moe_num_experts": EXPERTS, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {"per_layer_config": {}, "head_dim": 2 * HEAD},
    "esm": {"vocab_size": VOCABULARY, "mask_token_id": 2},
    "esmc": {"vocab_size": VOCABULARY, "mask_token_id": 2},
    "falcon_h1": {"mamba_d_head": 16, "mamba_d_ssm": 64},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "hrm_text": {"num_layers_per_stack": 1, "num_hidden_layers": 8},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "neomme": {"head_dim": 16}, "rwkv": {"attention_hidden_size": WIDTH},
    "t5gemma": {"is_encoder_decoder": False},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"], "hybrid_layer_ids": [1]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "attention_layers": ["global", "local"]},
    "hunyuan_v1_dense": {"head_dim": HEAD}, "hunyuan_v1_moe": {"head_dim": HEAD}, "ministral": {"head_dim": HEAD},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "nemotron": {"num_key_value_heads": GROUPS},
    "qwen3_5_text": {
        "head_dim": 32,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25,
                            "mrope_section": [2, 1, 1]},
    },
    "qwen4_exp_text": {
        "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_shape": [8, 16], "axial_pos_embds_dim": [16, 16]},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "mamba_dt_rank": 4, "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
    },
}  # fmt: skip


def classes() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Model type, and the lists it stands in, of every class in the lists of models that read text."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for kind, names in LISTS.items():
        for model_type, entry in names.items():
            for name in (entry,) if isinstance(entry, str) else entry:
                known = found.get(name, (model_type, ()))
                found[name] = (known[0], tuple(dict.fromkeys((*known[1], kind))))
    return dict(sorted(found.items()))


def tiny_config(name: str) -> PretrainedConfig:
    """The configuration of a class of transformers with small sizes."""
    kind: type[PretrainedConfig] = getattr(transformers, name).config_class
    usual = kind().to_dict()
    entries = _small(usual, _layers(usual)) | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1}
    if kind.model_type in ("bert",) or "is_decoder" in usual:
        entries["is_decoder"] = "causal" in classes()[name][1]
    entries |= ENTRIES.get(kind.model_type, {}) | ENTRIES.get(name, {})
    return kind.from_dict(entries)


def usual_config(name: str) -> dict[str, Any]:
    """The entries of a `config.json` with which a class comes, as far as it writes one."""
    kind: type[PretrainedConfig] = getattr(transformers, name).config_class
    return {"architectures": [name], "model_type": kind.model_type}


def tiny_network(name: str) -> PreTrainedModel:
    """A network of a class of transformers, small and random; norms and biases are random too."""
    torch.manual_seed(0)
    network: PreTrainedModel = getattr(transformers, name)(tiny_config(name))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        center = float(parameter.ndim == 1)
        parameter.data = center + 0.1 * torch.randn(parameter.shape, generator=generator)
    for module in network.modules():
        # As training leaves it; some classes set it to 0 when they are loaded.
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            module.weight.data[module.padding_idx] = 0
    network.tie_weights()
    return network.eval()


def _layers(entries: Mapping[str, Any]) -> tuple[int, list[int]]:
    """The usual number of layers, and the first layer of each kind: at least two layers are kept."""
    count = next(
        (entries[n] for n in ("num_hidden_layers", "num_layers", "n_layer") if isinstance(entries.get(n), int)), 0
    )
    kinds = list(
        zip(*(v for v in entries.values() if _by_layer(v, count) and all(type(x) is str for x in v)), strict=True)
    )
    first = sorted({kind: i for i, kind in reversed(list(enumerate(kinds)))}.values())
    return count, (first if len(first) >= LAYERS else [0, 1])


def _by_layer(value: object, layers: int) -> bool:
    """True if an entry is a list with a value for each layer."""
    return isinstance(value, list) and layers > 1 and len(value) == layers


def _small(entries: Mapping[str, Any], layers: tuple[int, list[int]]) -> dict[str, Any]:
    """The entries with each size made small, those of configurations within too."""
    found: dict[str, Any] = {}
    usual, kept = layers
    for name, value in entries.items():
        if name in LEFT_OUT:
            continue
        if isinstance(value, Mapping):
            inside = name.endswith("_config") or "model_type" in value
            found[name] = _small(value, _layers(value)) if inside else value
        elif _by_layer(value, usual):
            found[name] = [_size(f"{name.removesuffix('_per_layer')}", value[i]) for i in kept]
        else:
            counts = type(value) is int and value == usual > 1 and re.search("layers?$", name)
            found[name] = len(kept) if counts else _size(name, value)
    heads = next((n for n in entries if re.fullmatch("num_attention_heads|n_heads?|num_heads", n)), None)
    groups = next(
        (n for n in entries if re.fullmatch("num_key_value_heads|n_head_kv|num_kv_heads|num_query_groups", n)), None
    )
    if heads and groups and entries[heads] == entries[groups]:
        found[groups] = found[heads]
    return found


def _size(name: str, value: Any) -> Any:
    """The value of an entry, made small if it is a size."""
    for size, patterns in SIZES:
        if type(value) is int and value > 0 and any(re.fullmatch(pattern, name) for pattern in patterns.split()):
            return min(size, value)
    return value
