"""Qwen 1.5 and 2 mixtures, with a shared expert; shares of the chosen experts are not made to sum to one."""

from __future__ import annotations

from typing import Any

from mediant.models.gguf.families import _llama_shaped as shaped
from mediant.models.gguf.families import qwen2
from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Family, Part, as_row

SHARED = {
    f"{shaped.LAYER}mlp.shared_expert.gate_proj": Part(("blk.{n}.ffn_gate_shexp",)),
    f"{shaped.LAYER}mlp.shared_expert.up_proj": Part(("blk.{n}.ffn_up_shexp",)),
    f"{shaped.LAYER}mlp.shared_expert.down_proj": Part(("blk.{n}.ffn_down_shexp",)),
    f"{shaped.LAYER}mlp.shared_expert_gate": Part(("blk.{n}.ffn_gate_inp_shexp",), as_row),
}


def settings(header: Header) -> dict[str, Any]:
    """Returns the arguments of `Qwen2MoeConfig`; sizes that old files do not say are those of the tensors."""
    shape = header.file.shape
    return qwen2.settings(header) | {
        "num_experts": int(header.take("expert_count")),
        "num_experts_per_tok": int(header.take("expert_used_count")),
        "moe_intermediate_size": int(header.take("expert_feed_forward_length", shape("blk.0.ffn_gate_exps.weight")[1])),
        "shared_expert_intermediate_size": int(
            header.take("expert_shared_feed_forward_length", shape("blk.0.ffn_gate_shexp.weight")[0])
        ),
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


FAMILY = Family(
    network="Qwen2MoeForCausalLM",
    settings=settings,
    parts=shaped.OUTSIDE | shaped.ATTENTION | shaped.EXPERTS | SHARED,
)
