"""Qwen 3 mixtures; shares of the chosen experts sum to one."""

from __future__ import annotations

from typing import Any

from mediant.models.gguf.families import _llama_shaped as shaped
from mediant.models.gguf.families import qwen3
from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Family


def settings(header: Header) -> dict[str, Any]:
    """Returns the arguments of `Qwen3MoeConfig`."""
    return qwen3.settings(header) | {
        "num_experts": int(header.take("expert_count")),
        "num_experts_per_tok": int(header.take("expert_used_count")),
        "moe_intermediate_size": int(header.take("expert_feed_forward_length")),
        "norm_topk_prob": bool(header.take("expert_weights_norm", True)),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


FAMILY = Family(
    network="Qwen3MoeForCausalLM",
    settings=settings,
    parts=shaped.OUTSIDE | shaped.ATTENTION | shaped.HEAD_NORMS | shaped.EXPERTS,
    zero=shaped.ATTENTION_BIASES,
)
