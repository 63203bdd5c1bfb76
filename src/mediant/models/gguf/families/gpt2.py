"""GPT-2: learned positions, fused projections stored with inputs first."""

from __future__ import annotations

from typing import Any

from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Family, Part, transposed

LAYER = "transformer.h.{n}."


def settings(header: Header) -> dict[str, Any]:
    """Returns the arguments of `GPT2Config`."""
    vocabulary = header.file.shape("token_embd.weight")[0]
    header.expect("vocab_size", vocabulary)
    heads = int(header.take("attention.head_count"))
    header.expect("attention.head_count_kv", heads)
    return {
        "vocab_size": vocabulary,
        "n_positions": int(header.take("context_length")),
        "n_embd": int(header.take("embedding_length")),
        "n_layer": int(header.take("block_count")),
        "n_head": heads,
        "n_inner": int(header.take("feed_forward_length")),
        "layer_norm_epsilon": float(header.take("attention.layer_norm_epsilon")),
        "tie_word_embeddings": "output.weight" not in header.file.tensors,
    }


FAMILY = Family(
    network="GPT2LMHeadModel",
    settings=settings,
    parts={
        "transformer.wte": Part(("token_embd",)),
        "transformer.wpe": Part(("position_embd",)),
        f"{LAYER}ln_1": Part(("blk.{n}.attn_norm",)),
        f"{LAYER}attn.c_attn": Part(("blk.{n}.attn_qkv",), transposed),
        f"{LAYER}attn.c_proj": Part(("blk.{n}.attn_output",), transposed),
        f"{LAYER}ln_2": Part(("blk.{n}.ffn_norm",)),
        f"{LAYER}mlp.c_fc": Part(("blk.{n}.ffn_up",), transposed),
        f"{LAYER}mlp.c_proj": Part(("blk.{n}.ffn_down",), transposed),
        "transformer.ln_f": Part(("output_norm",)),
        "lm_head": Part(("output",)),
    },
)
