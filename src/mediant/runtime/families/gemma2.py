"""Gemma 2: norms before and behind each half, soft caps on scores and logits, a window in every other layer."""

from __future__ import annotations

import math
from typing import Any

from mediant.runtime.description import Config, Description
from mediant.runtime.families._llama_shaped import SANDWICH_NORMS, llama_shaped, windows_where

MODEL_TYPES = ("gemma2",)


def describe(config: Config) -> Description:
    """Windows start with the first layer."""
    count = config.whole("num_hidden_layers")
    sliding = config.sliding(count, tuple(layer % 2 == 0 for layer in range(count)))
    return llama_shaped(
        config,
        "gemma2",
        windows=windows_where(sliding, config.whole("sliding_window", 4096)),
        norms=SANDWICH_NORMS,
        attention_cap=_cap(config, "attn_logit_softcapping", 50.0),
        logit_cap=_cap(config, "final_logit_softcapping", 30.0),
        **gemma(config),
    )


def gemma(config: Config) -> dict[str, Any]:
    """What all Gemmas share: norms that multiply by 1 + weight, and embeddings scaled by the root of their width."""
    hidden = config.whole("hidden_size")
    return {
        "head_dim": config.whole("head_dim", 256),
        "norm_offset": 1.0,
        "embedding_scale": math.sqrt(hidden),
        "attention_scale": config.real("query_pre_attn_scalar", 256) ** -0.5,
    }


def _cap(config: Config, name: str, default: float) -> float:
    """A cap that is null is none; one that is absent is the default."""
    return config.real(name, default) if name not in config.entries or config.get(name) is not None else 0.0
