"""Gemma 3, its text part: as Gemma 2 with norms of queries and keys instead of caps, five layers in six with a window
and a rotation of their own.
"""

from __future__ import annotations

from mediant.runtime.description import Config, Description, UnsupportedModel
from mediant.runtime.families._llama_shaped import QUERY_KEY_NORMS, SANDWICH_NORMS, head_size, llama_shaped
from mediant.runtime.families.gemma2 import gemma
from mediant.runtime.rope import rope

MODEL_TYPES = ("gemma3_text",)
ARCHITECTURE = "Gemma3ForCausalLM"


def describe(config: Config) -> Description:
    """Rotation 0 is that of full layers, 1 that of layers with a window."""
    if config.cap("attn_logit_softcapping"):
        # One implementation of attention in transformers applies it and the usual one does not; no model has it.
        raise UnsupportedModel("its soft cap on scores means different things to parts of transformers")
    windows, head_dim = config.windows(), head_size(config)
    return llama_shaped(
        config,
        "gemma3",
        windows=windows,
        ropes=(rope(config, head_dim, "full_attention"), rope(config, head_dim, "sliding_attention")),
        rope_of_layer=[int(window > 0) for window in windows],
        norms=SANDWICH_NORMS | QUERY_KEY_NORMS,
        **gemma(config),
    )
