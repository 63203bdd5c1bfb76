"""Qwen 2 and 2.5: Llama with biases on queries, keys and values, and windows in the upper layers if switched on."""

from __future__ import annotations

from mediant.runtime.description import Config, Description
from mediant.runtime.families._llama_shaped import llama_shaped, windows_where

MODEL_TYPES = ("qwen2",)


def describe(config: Config) -> Description:
    """Llama; biases are found beside their weights."""
    return llama_shaped(config, "qwen2", windows=qwen_windows(config))


def qwen_windows(config: Config) -> list[int]:
    """The reach of each layer."""
    count = config.whole("num_hidden_layers")
    if not config.get("use_sliding_window", False) or config.get("sliding_window") is None:
        return [0] * count
    first = config.get("max_window_layers", 28)
    sliding = config.sliding(count, tuple(layer >= first for layer in range(count)))
    return windows_where(sliding, config.whole("sliding_window"))
