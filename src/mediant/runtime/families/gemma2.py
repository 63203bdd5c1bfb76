"""Gemma 2: norms before and behind each half, soft caps on scores and logits, a window in every other layer."""

from __future__ import annotations

import math
from typing import Any

from mediant.runtime.description import Config, Description, UnsupportedModel
from mediant.runtime.families._llama_shaped import ATTENTION, SANDWICH_NORMS, biased, llama_shaped

MODEL_TYPES = ("gemma2",)
ARCHITECTURE = "Gemma2ForCausalLM"


def describe(config: Config) -> Description:
    """Returns windows as `layer_types` say."""
    return llama_shaped(config, "gemma2", windows=config.windows(), norms=SANDWICH_NORMS, **gemma(config))


def gemma(config: Config) -> dict[str, Any]:
    """Describes what all Gemmas share: norms by 1 + weight, and embeddings scaled by the root of their width."""
    config.get("hidden_act")  # an old name beside hidden_activation, which the class does not heed
    if config.truth("use_bidirectional_attention"):
        raise UnsupportedModel("its attention looks ahead")
    scalar = config.real("query_pre_attn_scalar")
    if scalar <= 0:
        raise UnsupportedModel(f"its config.json gives query_pre_attn_scalar as {scalar!r}, not as a positive number")
    return {
        "activation": "hidden_activation",
        "norm_offset": 1.0,
        "embedding_scale": math.sqrt(config.whole("hidden_size")),
        "attention_scale": scalar**-0.5,
        "attention_cap": config.cap("attn_logit_softcapping"),
        "logit_cap": config.cap("final_logit_softcapping"),
        "biased": biased(config, "attention_bias", ATTENTION),
    }
