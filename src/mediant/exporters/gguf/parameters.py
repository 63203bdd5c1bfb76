"""The numbers of a configuration that llama.cpp needs, and a ledger of all others.

Every key of a configuration is written, or says nothing about the network's values (with the reason below), or must
have the only value that llama.cpp knows; anything else is refused by name when it differs from its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf

from mediant.errors import ModelError
from mediant.exporters.gguf.architectures import Architecture
from mediant.exporters.gguf.rotary import add_rotary

WRITTEN = frozenset((
    "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "rms_norm_eps", "max_position_embeddings", "vocab_size", "rope_parameters", "bos_token_id", "eos_token_id",
    "pad_token_id",
))  # fmt: skip
SHOWN_BY_TENSORS = frozenset(("attention_bias", "mlp_bias", "tie_word_embeddings"))
CHECKED = frozenset(("sliding_window", "layer_types", "use_sliding_window", "max_window_layers", "architectures"))
SAYS_NOTHING = {
    "_name_or_path": "where the configuration was read",
    "model_type": "the architecture says it",
    "transformers_version": "what wrote the configuration",
    "dtype": "the type of the export is chosen anew",
    "initializer_range": "for training from scratch",
    "attention_dropout": "for training",
    "use_cache": "how it is run",
    "return_dict": "how it is run",
    "output_attentions": "how it is run",
    "output_hidden_states": "how it is run",
    "chunk_size_feed_forward": "how it is run",
    "pretraining_tp": "how products are cut into pieces, which gives the same values",
    "id2label": "for classifiers",
    "label2id": "for classifiers",
    "problem_type": "for classifiers",
}
ONLY = {"hidden_act": ("silu", "swish"), "is_encoder_decoder": (False,)}


def check_parameters(config: Mapping[str, Any], defaults: Mapping[str, Any], architecture: Architecture) -> None:
    """Refuses a configuration that says what llama.cpp has no place for.

    Args:
        config: all keys, defaults included.
        defaults: those of its class. What the class does not know, transformers does not read either.
        architecture: what it becomes.

    Raises:
        ModelError: naming the key.
    """
    for key, allowed in ONLY.items():
        if config.get(key) not in allowed:
            raise ModelError(f"GGUF cannot say {key} = {config.get(key)!r}; llama.cpp takes {allowed[0]!r}.")
    known = WRITTEN | SHOWN_BY_TENSORS | CHECKED | SAYS_NOTHING.keys() | ONLY.keys()
    for key in sorted(config.keys() & defaults.keys() - known):
        if config[key] != defaults[key]:
            raise ModelError(f"GGUF has no place for {key} = {config[key]!r} of this model's configuration.")
    _check_window(config)
    size, heads = head_size(config), int(config["num_attention_heads"])
    if not architecture.free_heads and size * heads != config["hidden_size"]:
        raise ModelError(
            f"llama.cpp wants the {heads} heads of {size} values to make up the hidden size {config['hidden_size']}"
            f" in the architecture {architecture.name!r}."
        )


def _check_window(config: Mapping[str, Any]) -> None:
    """llama.cpp attends to everything in these architectures; a window that is never left is the same."""
    window = config.get("sliding_window")
    layers = config.get("layer_types") or ["sliding_attention" if window else "full_attention"]
    strange = sorted(set(layers) - {"full_attention", "sliding_attention"})
    if strange:
        raise ModelError(f"The layer type {strange[0]!r} is not exported to GGUF.")
    if "sliding_attention" in layers and window and window < config["max_position_embeddings"]:
        raise ModelError(
            f"The sliding_window of {window} tokens is not exported to GGUF: llama.cpp attends to all of up to"
            f" {config['max_position_embeddings']} tokens in this architecture."
        )


def head_size(config: Mapping[str, Any]) -> int:
    """Values of one head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def add_parameters(writer: gguf.GGUFWriter, config: Mapping[str, Any], architecture: Architecture) -> None:
    """Writes the numbers that llama.cpp needs.

    Raises:
        ModelError: the rotary embedding is of a kind that it does not know.
    """
    heads, size = int(config["num_attention_heads"]), head_size(config)
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(int(config["vocab_size"]))
    add_rotary(writer, config, architecture)
