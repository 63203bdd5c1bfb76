"""What Llama-like architectures share: numbers, names, and the biases that some have."""

from __future__ import annotations

from typing import Any

from mediant.models.gguf import rotary
from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Part, gate_over_up, rotated_keys, rotated_queries

LAYER = "model.layers.{n}."

OUTSIDE = {
    "model.embed_tokens": Part(("token_embd",)),
    "model.norm": Part(("output_norm",)),
    "lm_head": Part(("output",)),
}
ATTENTION = {
    f"{LAYER}input_layernorm": Part(("blk.{n}.attn_norm",)),
    f"{LAYER}self_attn.q_proj": Part(("blk.{n}.attn_q",)),
    f"{LAYER}self_attn.k_proj": Part(("blk.{n}.attn_k",)),
    f"{LAYER}self_attn.v_proj": Part(("blk.{n}.attn_v",)),
    f"{LAYER}self_attn.o_proj": Part(("blk.{n}.attn_output",)),
    f"{LAYER}post_attention_layernorm": Part(("blk.{n}.ffn_norm",)),
}
ROTATED = {
    f"{LAYER}self_attn.q_proj": Part(("blk.{n}.attn_q",), rotated_queries),
    f"{LAYER}self_attn.k_proj": Part(("blk.{n}.attn_k",), rotated_keys),
}
HEAD_NORMS = {
    f"{LAYER}self_attn.q_norm": Part(("blk.{n}.attn_q_norm",)),
    f"{LAYER}self_attn.k_norm": Part(("blk.{n}.attn_k_norm",)),
}
MLP = {
    f"{LAYER}mlp.gate_proj": Part(("blk.{n}.ffn_gate",)),
    f"{LAYER}mlp.up_proj": Part(("blk.{n}.ffn_up",)),
    f"{LAYER}mlp.down_proj": Part(("blk.{n}.ffn_down",)),
}
EXPERTS = {
    f"{LAYER}mlp.gate": Part(("blk.{n}.ffn_gate_inp",)),
    f"{LAYER}mlp.experts.gate_up_proj": Part(
        ("blk.{n}.ffn_gate_exps.weight", "blk.{n}.ffn_up_exps.weight"), gate_over_up
    ),
    f"{LAYER}mlp.experts.down_proj": Part(("blk.{n}.ffn_down_exps.weight",)),
}
PLAIN = OUTSIDE | ATTENTION | MLP

ATTENTION_BIASES = tuple(f"{LAYER}self_attn.{x}_proj.bias" for x in "qkvo")
MLP_BIASES = tuple(f"{LAYER}mlp.{x}_proj.bias" for x in ("gate", "up", "down"))


def head_size(header: Header) -> int:
    """Dimensions of a head; those of values must be as many."""
    size = int(
        header.take("attention.key_length", header.take("embedding_length") // header.take("attention.head_count"))
    )
    header.expect("attention.value_length", size)
    return size


def sizes(header: Header) -> dict[str, Any]:
    """Sizes, counts and ties that every configuration here has under the same names."""
    vocabulary = header.file.shape("token_embd.weight")[0] if "token_embd.weight" in header.file.tensors else 0
    header.expect("vocab_size", vocabulary)
    heads = int(header.take("attention.head_count"))
    dense = "feed_forward_length" in header or "expert_feed_forward_length" not in header
    return {
        "vocab_size": vocabulary,
        "hidden_size": int(header.take("embedding_length")),
        "intermediate_size": int(header.take("feed_forward_length" if dense else "expert_feed_forward_length")),
        "num_hidden_layers": int(header.take("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(header.take("attention.head_count_kv", heads)),
        "max_position_embeddings": int(header.take("context_length")),
        "tie_word_embeddings": "output.weight" not in header.file.tensors,
    }


def settings(header: Header) -> dict[str, Any]:
    """Returns the configuration of a network with RMS norms and heads that are rotated whole."""
    head = head_size(header)
    return sizes(header) | {
        "head_dim": head,
        "rms_norm_eps": rms_epsilon(header),
        "rope_parameters": rotary.parameters(header, head),
    }


def rms_epsilon(header: Header) -> float:
    """Reads the epsilon that RMS norms add to the mean square."""
    return float(header.take("attention.layer_norm_rms_epsilon"))


def has_any(header: Header, *names: str) -> bool:
    """Says whether the first layer has one of these tensors."""
    return any(f"blk.0.{name}" in header.file.tensors for name in names)


def has_attention_biases(header: Header) -> bool:
    """Says whether any projection of attention has a bias."""
    return has_any(header, "attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias")


def has_mlp_biases(header: Header) -> bool:
    """Says whether any projection of the MLP has a bias."""
    return has_any(header, "ffn_gate.bias", "ffn_up.bias", "ffn_down.bias")
