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


def llama_shaped(
    config: Config,
    family: str,
    windows: Sequence[int] | None = None,
    ropes: tuple[Rope, ...] | None = None,
    rope_of_layer: Sequence[int] | None = None,
    **differences: Any,
) -> Description:
    """The description of a model that is Llama but for `differences`, which are fields of `Description`."""
    count, heads, hidden = (config.whole(n) for n in ("num_hidden_layers", "num_attention_heads", "hidden_size"))
    head_dim = config.whole("head_dim", hidden // heads)
    windows, rope_of_layer = windows or [0] * count, rope_of_layer or [0] * count
    fields: dict[str, Any] = {
        "family": family,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": config.whole("num_key_value_heads", heads),
        "head_dim": head_dim,
        "inner": config.whole("intermediate_size"),
        "vocabulary": config.whole("vocab_size"),
        "positions": config.whole("max_position_embeddings"),
        "embedding": hidden,
        "layers": tuple(LayerShape(w, r) for w, r in zip(windows, rope_of_layer, strict=True)),
        "ropes": ropes or (rope(config, head_dim),),
        "matrices": MATRICES,
        "norms": NORMS,
        "single": SINGLE,
        "activation": config.activation("hidden_activation", "hidden_act"),
        "epsilon": config.real("rms_norm_eps", 1e-6),
        "attention_scale": head_dim**-0.5,
    }
    return Description(**fields | differences)


def windows_where(sliding: Sequence[bool], window: int) -> list[int]:
    """The reach of each layer: `window` positions where it slides, else all."""
    return [window if slides else 0 for slides in sliding]
