"""Qwen 3."""

from __future__ import annotations

from typing import Any

from mediant.models.gguf.families import _llama_shaped as shaped
from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Family


def settings(header: Header) -> dict[str, Any]:
    """Returns the arguments of `Qwen3Config`."""
    return shaped.settings(header) | {"attention_bias": shaped.has_attention_biases(header)}


FAMILY = Family(
    network="Qwen3ForCausalLM",
    settings=settings,
    parts=shaped.PLAIN | shaped.HEAD_NORMS,
    zero=shaped.ATTENTION_BIASES,
)
