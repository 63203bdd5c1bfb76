"""What all families have in common that descend from Llama: names, RMSNorm, rotations, a gated MLP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mediant.runtime.description import Config, Description, LayerShape, Rope
from mediant.runtime.rope import rope

MATRICES = {
    "query": "model.layers.{}.self_attn.q_proj",
    "key": "model.layers.{}.self_attn.k_proj",
    "value": "model.layers.{}.self_attn.v_proj",
    "out": "model.layers.{}.self_attn.o_proj",
    "gate": "model.layers.{}.mlp.gate_proj",
    "up": "model.layers.{}.mlp.up_proj",
    "down": "model.layers.{}.mlp.down_proj",
}
NORMS = {
    "attention_norm": "model.layers.{}.input_layernorm",
    "mlp_norm": "model.layers.{}.post_attention_layernorm",
}
QUERY_KEY_NORMS = {
    "query_norm": "model.layers.{}.self_attn.q_norm",
    "key_norm": "model.layers.{}.self_attn.k_norm",
}
SANDWICH_NORMS = {
    "attention_norm": "model.layers.{}.input_layernorm",
    "attention_post_norm": "model.layers.{}.post_attention_layernorm",
    "mlp_norm": "model.layers.{}.pre_feedforward_layernorm",
    "mlp_post_norm": "model.layers.{}.post_feedforward_layernorm",
}
SINGLE = {"embedding": "model.embed_tokens", "head": "lm_head", "final_norm": "model.norm"}
ATTENTION = ("query", "key", "value", "out")
MLP = ("gate", "up", "down")


def llama_shaped(
    config: Config,
    family: str,
    windows: Sequence[int] | None = None,
    ropes: tuple[Rope, ...] | None = None,
    rope_of_layer: Sequence[int] | None = None,
    activation: str = "hidden_act",
    **differences: Any,
) -> Description:
    """Returns the description of a model that is Llama but for `differences`, which are fields of `Description`."""
    count, head_dim = config.whole("num_hidden_layers"), head_size(config)
    windows, rope_of_layer = windows or [0] * count, rope_of_layer or [0] * count
    fields: dict[str, Any] = {
        "family": family,
        "hidden": config.whole("hidden_size"),
        "heads": config.whole("num_attention_heads"),
        "kv_heads": config.whole("num_key_value_heads"),
        "head_dim": head_dim,
        "inner": config.whole("intermediate_size"),
        "vocabulary": config.whole("vocab_size"),
        "positions": config.whole("max_position_embeddings"),
        "embedding": config.whole("hidden_size"),
        "layers": tuple(LayerShape(w, r) for w, r in zip(windows, rope_of_layer, strict=True)),
        "ropes": ropes or (rope(config, head_dim),),
        "matrices": MATRICES,
        "norms": NORMS,
        "single": SINGLE,
        "activation": config.activation(activation),
        "epsilon": config.real("rms_norm_eps"),
        "attention_scale": head_dim**-0.5,
    }
    return Description(**fields | differences)


def head_size(config: Config) -> int:
    """Dimensions of a head: a share of the width where the configuration has no entry of its own."""
    if "head_dim" in config.entries:
        return config.whole("head_dim")
    return config.whole("hidden_size") // config.whole("num_attention_heads")


def biased(config: Config, entry: str, roles: Sequence[str]) -> frozenset[str]:
    """Returns the roles, if an entry of the configuration gives them biases."""
    return frozenset(roles) if config.truth(entry) else frozenset()
