"""Qwen 3: Llama with a norm on each head's queries and keys."""

from __future__ import annotations

from mediant.runtime.description import Config, Description
from mediant.runtime.families._llama_shaped import NORMS, QUERY_KEY_NORMS, llama_shaped
from mediant.runtime.families.qwen2 import qwen_windows

MODEL_TYPES = ("qwen3",)


def describe(config: Config) -> Description:
    """Llama with norms of queries and keys."""
    head_dim = config.whole("head_dim", 128)
    return llama_shaped(
        config,
        "qwen3",
        windows=qwen_windows(config),
        head_dim=head_dim,
        attention_scale=head_dim**-0.5,
        norms=NORMS | QUERY_KEY_NORMS,
    )
