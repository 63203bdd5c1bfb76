"""Gemma 3, its text part: as Gemma 2 with norms of queries and keys instead of caps, five layers in six with a window
and a rotation of their own.
"""

from __future__ import annotations

from mediant.runtime.description import Config, Description, Unsupported
from mediant.runtime.families._llama_shaped import QUERY_KEY_NORMS, SANDWICH_NORMS, llama_shaped, windows_where
from mediant.runtime.families.gemma2 import gemma
from mediant.runtime.rope import rope

MODEL_TYPES = ("gemma3_text",)


def describe(config: Config) -> Description:
    """Rotation 0 is that of full layers, 1 that of layers with a window."""
    if config.get("use_bidirectional_attention", False):
        raise Unsupported("its attention looks ahead")
    count, head_dim = config.whole("num_hidden_layers"), config.whole("head_dim", 256)
    every = config.get("sliding_window_pattern", config.get("_sliding_window_pattern", 6))
    sliding = config.sliding(count, tuple((layer + 1) % every != 0 for layer in range(count)))
    return llama_shaped(
        config,
        "gemma3",
        windows=windows_where(sliding, config.whole("sliding_window", 4096)),
        ropes=(rope(config, head_dim, "full_attention"), rope(_local(config), head_dim, "sliding_attention")),
        rope_of_layer=[int(slides) for slides in sliding],
        norms=SANDWICH_NORMS | QUERY_KEY_NORMS,
        attention_cap=config.real("attn_logit_softcapping", 0.0),
        logit_cap=config.real("final_logit_softcapping", 0.0),
        **gemma(config),
    )


def _local(config: Config) -> Config:
    """In the old form, `rope_theta` and `rope_scaling` are those of full layers."""
    if config.get("rope_parameters") is not None:
        return config
    entries = {name: value for name, value in config.entries.items() if name != "rope_scaling"}
    return Config(entries | {"rope_theta": config.real("rope_local_base_freq", 10000.0)})
