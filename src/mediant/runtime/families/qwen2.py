"""Qwen 2 and 2.5: Llama with biases on queries, keys and values, and windows in the upper layers if switched on."""

from __future__ import annotations

from mediant.runtime.description import Config, Description
from mediant.runtime.families._llama_shaped import llama_shaped

MODEL_TYPES = ("qwen2",)
ARCHITECTURE = "Qwen2ForCausalLM"


def describe(config: Config) -> Description:
    """Llama with biases and windows."""
    return llama_shaped(config, "qwen2", windows=qwen_windows(config), biased=frozenset(("query", "key", "value")))


def qwen_windows(config: Config) -> list[int]:
    """Returns the reach of each layer. The switch and the first layer with a window are in `layer_types` already."""
    for settled in ("use_sliding_window", "max_window_layers"):
        config.get(settled)
    return config.windows()
