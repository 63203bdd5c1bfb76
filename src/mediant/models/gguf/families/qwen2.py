"""Qwen 1.5, 2 and 2.5."""

from __future__ import annotations

from mediant.models.gguf.families import _llama_shaped as shaped
from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Family


def settings(header: Header) -> dict[str, object]:
    """Returns the arguments of `Qwen2Config`, which has no head size of its own."""
    found = shaped.settings(header)
    header.expect("attention.key_length", found["hidden_size"] // found["num_attention_heads"])
    return {name: value for name, value in found.items() if name != "head_dim"}


FAMILY = Family(network="Qwen2ForCausalLM", settings=settings, parts=shaped.PLAIN)
