"""Granite 3: Llama with multipliers of its embedding, attention, residual stream and logits."""

from __future__ import annotations

from typing import Any

from mediant.models.gguf.families import _llama_shaped as shaped
from mediant.models.gguf.families import llama
from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Family


def settings(header: Header) -> dict[str, Any]:
    """Returns the arguments of `GraniteConfig`, whose heads have no size of their own."""
    found = llama.settings(header)
    header.expect("attention.key_length", found["hidden_size"] // found["num_attention_heads"])
    usual = found.pop("head_dim") ** -0.5
    return found | {
        "embedding_multiplier": float(header.take("embedding_scale", 1.0)),
        "residual_multiplier": float(header.take("residual_scale", 1.0)),
        "attention_multiplier": float(header.take("attention.scale", usual)),
        "logits_scaling": float(header.take("logit_scale", 1.0)),
    }


FAMILY = Family(
    network="GraniteForCausalLM",
    settings=settings,
    parts=shaped.PLAIN | shaped.ROTATED,
    zero=shaped.ATTENTION_BIASES + shaped.MLP_BIASES,
)
