"""What the Gemmas share: norms stored as the difference to one, and attention scaled by a number of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

from mediant.models.gguf.families import _llama_shaped as shaped
from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Part, less_one

LAYER = shaped.LAYER
NORMS_AROUND = {
    f"{LAYER}post_attention_layernorm": Part(("blk.{n}.post_attention_norm",)),
    f"{LAYER}pre_feedforward_layernorm": Part(("blk.{n}.ffn_norm",)),
    f"{LAYER}post_feedforward_layernorm": Part(("blk.{n}.post_ffw_norm",)),
}


def less_one_in_norms(parts: dict[str, Part]) -> dict[str, Part]:
    """Returns the parts, with one taken off every norm."""
    return {
        name: dataclasses.replace(part, change=less_one) if name.endswith("norm") else part
        for name, part in parts.items()
    }


def query_scalar(header: Header, head: int, large: int) -> int:
    """Returns the number whose inverse root scales attention: the head's size, but the model's width over its heads in
    the largest of a generation, which llama.cpp knows by its `large` layers. A scale in the header goes before.
    """
    if scale := float(header.take("attention.scale", 0.0)):
        return round(scale**-2)
    width, heads = int(header.take("embedding_length")), int(header.take("attention.head_count"))
    return width // heads if header.take("block_count") == large else head


def window(header: Header, pattern: int) -> dict[str, Any]:
    """Returns the sliding window and which layers have it: all but every `pattern`-th, unless the header says
    otherwise.
    """
    layers = int(header.take("block_count"))
    said = header.take_any("attention.sliding_window_pattern", pattern)
    sliding = [bool(x) for x in said] if isinstance(said, list) else [bool((n + 1) % said) for n in range(layers)]
    return {
        "sliding_window": int(header.take("attention.sliding_window")),
        "layer_types": ["sliding_attention" if slides else "full_attention" for slides in sliding],
    }


def soft_caps(header: Header, attention: float | None, final: float | None) -> dict[str, float | None]:
    """Returns the bounds of attention scores and logits, by default those that llama.cpp takes; 0 means none."""
    return {
        "attn_logit_softcapping": header.take("attn_logit_softcapping", attention) or None,
        "final_logit_softcapping": header.take("final_logit_softcapping", final) or None,
    }
