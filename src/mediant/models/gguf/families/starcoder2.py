"""StarCoder 2: layer norms and biases."""

from __future__ import annotations

from typing import Any

from mediant.models.gguf import rotary
from mediant.models.gguf.families import _llama_shaped as shaped
from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Family, Part


def settings(header: Header) -> dict[str, Any]:
    """Returns the arguments of `Starcoder2Config`."""
    found = shaped.sizes(header)
    header.expect("attention.key_length", found["hidden_size"] // found["num_attention_heads"])
    return found | {
        "norm_epsilon": float(header.take("attention.layer_norm_epsilon")),
        "rope_parameters": rotary.parameters(header, shaped.head_size(header)),
        "sliding_window": header.take("attention.sliding_window", 0) or None,
        "use_bias": shaped.has_attention_biases(header),
    }


FAMILY = Family(
    network="Starcoder2ForCausalLM",
    settings=settings,
    parts=shaped.OUTSIDE
    | shaped.ATTENTION
    | {
        f"{shaped.LAYER}mlp.c_fc": Part(("blk.{n}.ffn_up",)),
        f"{shaped.LAYER}mlp.c_proj": Part(("blk.{n}.ffn_down",)),
    },
)
