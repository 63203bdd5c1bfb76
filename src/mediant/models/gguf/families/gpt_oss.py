"""gpt-oss: experts whose gate and up rows alternate and whose inputs come first, attention with sinks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PretrainedConfig

from mediant.models.gguf.families import _gemma_shaped as gemma
from mediant.models.gguf.families import _llama_shaped as shaped
from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Family, Floats, Part, transposed

LAYER = shaped.LAYER


def alternating(values: Sequence[Floats], config: PretrainedConfig) -> Floats:
    """Returns rows of gate and up in turn: [experts, rows] of biases, [experts, columns, rows] of matrices."""
    gate, up = values
    rows = np.stack([gate, up], axis=2).reshape(gate.shape[0], 2 * gate.shape[1], *gate.shape[2:])
    return rows if rows.ndim == 2 else np.ascontiguousarray(rows.swapaxes(1, 2))


def settings(header: Header) -> dict[str, Any]:
    """Returns the arguments of `GptOssConfig`."""
    found = shaped.settings(header)
    header.expect("expert_feed_forward_length", found["intermediate_size"])
    if found["rope_parameters"]["rope_type"] == "yarn":
        # The bounds of YaRN's ramp are not rounded to whole dimensions here; no header says so.
        found["rope_parameters"]["truncate"] = False
    return (
        found
        | gemma.window(header, 2)
        | {
            "num_local_experts": int(header.take("expert_count")),
            "num_experts_per_tok": int(header.take("expert_used_count")),
            "attention_bias": shaped.has_attention_biases(header),
        }
    )


FAMILY = Family(
    network="GptOssForCausalLM",
    settings=settings,
    parts=shaped.OUTSIDE
    | shaped.ATTENTION
    | {
        f"{LAYER}self_attn.sinks": Part(("blk.{n}.attn_sinks.weight",)),
        f"{LAYER}post_attention_layernorm": Part(("blk.{n}.post_attention_norm",)),
        f"{LAYER}mlp.router": Part(("blk.{n}.ffn_gate_inp",)),
        f"{LAYER}mlp.experts.gate_up_proj": Part(
            ("blk.{n}.ffn_gate_exps.weight", "blk.{n}.ffn_up_exps.weight"), alternating
        ),
        f"{LAYER}mlp.experts.gate_up_proj_bias": Part(
            ("blk.{n}.ffn_gate_exps.bias", "blk.{n}.ffn_up_exps.bias"), alternating
        ),
        f"{LAYER}mlp.experts.down_proj": Part(("blk.{n}.ffn_down_exps.weight",), transposed),
        f"{LAYER}mlp.experts.down_proj_bias": Part(("blk.{n}.ffn_down_exps.bias",)),
    },
)
