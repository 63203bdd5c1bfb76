"""Phi 3, 3.5 and 4 mini: fused projections, and factors of rotary frequencies for long texts."""

from __future__ import annotations

from typing import Any

from mediant.models.gguf import rotary
from mediant.models.gguf.families import _llama_shaped as shaped
from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Family, Part

LAYER = shaped.LAYER
PARTS = shaped.OUTSIDE | {
    f"{LAYER}input_layernorm": Part(("blk.{n}.attn_norm",)),
    f"{LAYER}self_attn.qkv_proj": Part(("blk.{n}.attn_qkv",)),
    f"{LAYER}self_attn.o_proj": Part(("blk.{n}.attn_output",)),
    f"{LAYER}post_attention_layernorm": Part(("blk.{n}.ffn_norm",)),
    f"{LAYER}mlp.gate_up_proj": Part(("blk.{n}.ffn_up",)),
    f"{LAYER}mlp.down_proj": Part(("blk.{n}.ffn_down",)),
}


def settings(header: Header) -> dict[str, Any]:
    """Returns the arguments of `Phi3Config`."""
    found = shaped.sizes(header)
    head = shaped.head_size(header)
    header.expect("attention.key_length", found["hidden_size"] // found["num_attention_heads"])
    rope = rotary.parameters(header, head, partial=True)
    context = found["max_position_embeddings"]
    original = header.take("rope.scaling.original_context_length", context)
    return found | {
        "rms_norm_eps": shaped.rms_epsilon(header),
        "rope_parameters": rope,
        "original_max_position_embeddings": int(original),
        "sliding_window": header.take("attention.sliding_window", 0) or None,
    }


FAMILY = Family(network="Phi3ForCausalLM", settings=settings, parts=PARTS)
