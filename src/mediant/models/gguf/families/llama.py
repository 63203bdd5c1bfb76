"""Llama and what is stored as such: Mistral, SmolLM, Yi, Vicuna, InternLM with biases."""

from __future__ import annotations

from typing import Any

from mediant.models.gguf.families import _llama_shaped as shaped
from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Family


def settings(header: Header) -> dict[str, Any]:
    """Returns the arguments of `LlamaConfig`."""
    biases = {
        "attention_bias": shaped.has_attention_biases(header),
        "mlp_bias": shaped.has_mlp_biases(header),
    }
    return shaped.settings(header) | biases


FAMILY = Family(
    network="LlamaForCausalLM",
    settings=settings,
    parts=shaped.PLAIN | shaped.ROTATED,
    zero=shaped.ATTENTION_BIASES + shaped.MLP_BIASES,
)
