"""OLMo 2: norms behind attention and MLP, and over all queries and keys."""

from __future__ import annotations

from typing import Any

from mediant.models.gguf.families import _llama_shaped as shaped
from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Family, Part

LAYER = shaped.LAYER


def settings(header: Header) -> dict[str, Any]:
    """Returns the arguments of `Olmo2Config`, whose heads have no size of their own."""
    found = shaped.settings(header)
    header.expect("attention.key_length", found["hidden_size"] // found["num_attention_heads"])
    return {name: value for name, value in found.items() if name != "head_dim"}


FAMILY = Family(
    network="Olmo2ForCausalLM",
    settings=settings,
    parts=shaped.PLAIN
    | shaped.HEAD_NORMS
    | {
        f"{LAYER}post_attention_layernorm": Part(("blk.{n}.post_attention_norm",)),
        f"{LAYER}post_feedforward_layernorm": Part(("blk.{n}.post_ffw_norm",)),
    },
)
