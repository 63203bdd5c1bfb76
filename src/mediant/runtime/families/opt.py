"""OPT: learned positions, LayerNorm, biases, a plain MLP; OPT-350m has its norms behind and a narrower embedding."""

from __future__ import annotations

from mediant.runtime.description import Config, Description, LayerShape
from mediant.runtime.families._llama_shaped import biased

MODEL_TYPES = ("opt",)
ARCHITECTURE = "OPTForCausalLM"

MATRICES = {
    "query": "model.decoder.layers.{}.self_attn.q_proj",
    "key": "model.decoder.layers.{}.self_attn.k_proj",
    "value": "model.decoder.layers.{}.self_attn.v_proj",
    "out": "model.decoder.layers.{}.self_attn.out_proj",
    "up": "model.decoder.layers.{}.fc1",
    "down": "model.decoder.layers.{}.fc2",
}
NORMS = {
    "attention_norm": "model.decoder.layers.{}.self_attn_layer_norm",
    "mlp_norm": "model.decoder.layers.{}.final_layer_norm",
}


def describe(config: Config) -> Description:
    """Describes OPT, whose positions are counted from 2: rows 0 and 1 of their table belong to padding."""
    hidden, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    embedding = config.whole("word_embed_proj_dim")
    first, bare_end = config.truth("do_layer_norm_before"), config.truth("_remove_final_layer_norm")
    single = {
        "embedding": "model.decoder.embed_tokens",
        "positions": "model.decoder.embed_positions",
        "head": "lm_head",
    }
    if embedding != hidden:
        single |= {"project_in": "model.decoder.project_in", "project_out": "model.decoder.project_out"}
    if first and not bare_end:
        single |= {"final_norm": "model.decoder.final_layer_norm"}
    return Description(
        family="opt",
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        inner=config.whole("ffn_dim"),
        vocabulary=config.whole("vocab_size"),
        positions=config.whole("max_position_embeddings"),
        embedding=embedding,
        layers=(LayerShape(rope=-1),) * config.whole("num_hidden_layers"),
        ropes=(),
        matrices=MATRICES,
        norms=NORMS,
        single=single,
        biased=biased(config, "enable_bias", tuple(MATRICES)),
        norm_weights=config.truth("layer_norm_elementwise_affine"),
        activation=config.activation("activation_function"),
        epsilon=1e-5,
        layer_norm=True,
        norm_first=first,
        attention_scale=(hidden // heads) ** -0.5,
        position_offset=2,
    )
