"""Phi 1, 1.5 and 2: attention and MLP side by side behind one norm, a part of each head rotated."""

from __future__ import annotations

from typing import Any

from mediant.models.gguf import rotary
from mediant.models.gguf.families import _llama_shaped as shaped
from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Family, Part

LAYER = shaped.LAYER


def settings(header: Header) -> dict[str, Any]:
    """Returns the arguments of `PhiConfig`."""
    found = shaped.sizes(header)
    head = shaped.head_size(header)
    header.expect("attention.key_length", found["hidden_size"] // found["num_attention_heads"])
    return found | {
        "layer_norm_eps": float(header.take("attention.layer_norm_epsilon")),
        "rope_parameters": {"partial_rotary_factor": 1.0} | rotary.parameters(header, head, partial=True),
    }


FAMILY = Family(
    network="PhiForCausalLM",
    settings=settings,
    parts={
        "model.embed_tokens": Part(("token_embd",)),
        f"{LAYER}input_layernorm": Part(("blk.{n}.attn_norm",)),
        f"{LAYER}self_attn.q_proj": Part(("blk.{n}.attn_q",)),
        f"{LAYER}self_attn.k_proj": Part(("blk.{n}.attn_k",)),
        f"{LAYER}self_attn.v_proj": Part(("blk.{n}.attn_v",)),
        f"{LAYER}self_attn.dense": Part(("blk.{n}.attn_output",)),
        f"{LAYER}mlp.fc1": Part(("blk.{n}.ffn_up",)),
        f"{LAYER}mlp.fc2": Part(("blk.{n}.ffn_down",)),
        "model.final_layernorm": Part(("output_norm",)),
        "lm_head": Part(("output",)),
    },
)
