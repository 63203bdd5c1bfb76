"""Mistral: Llama with the same sliding window in all layers, or none."""

from __future__ import annotations

from mediant.runtime.description import Config, Description
from mediant.runtime.families._llama_shaped import llama_shaped

MODEL_TYPES = ("mistral",)
ARCHITECTURE = "MistralForCausalLM"


def describe(config: Config) -> Description:
    """Llama with windows."""
    window = 0 if config.get("sliding_window") is None else config.whole("sliding_window")
    return llama_shaped(config, "mistral", windows=[window] * config.whole("num_hidden_layers"))
