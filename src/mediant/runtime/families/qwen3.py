"""Qwen 3: Llama with a norm on each head's queries and keys."""

from __future__ import annotations

from mediant.runtime.description import Config, Description
from mediant.runtime.families._llama_shaped import ATTENTION, NORMS, QUERY_KEY_NORMS, biased, llama_shaped
from mediant.runtime.families.qwen2 import qwen_windows

MODEL_TYPES = ("qwen3",)
ARCHITECTURE = "Qwen3ForCausalLM"


def describe(config: Config) -> Description:
    """Llama with norms of queries and keys."""
    return llama_shaped(
        config,
        "qwen3",
        windows=qwen_windows(config),
        norms=NORMS | QUERY_KEY_NORMS,
        biased=biased(config, "attention_bias", ATTENTION),
    )
