"""Mixtral: llama.cpp calls it llama with experts."""

from __future__ import annotations

from typing import Any

from mediant.models.gguf.families import _llama_shaped as shaped
from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Family


def settings(header: Header) -> dict[str, Any]:
    """Returns the arguments of `MixtralConfig`."""
    return shaped.settings(header) | {
        "num_local_experts": int(header.take("expert_count")),
        "num_experts_per_tok": int(header.take("expert_used_count")),
    }


FAMILY = Family(
    network="MixtralForCausalLM",
    settings=settings,
    parts=shaped.OUTSIDE | shaped.ATTENTION | shaped.ROTATED | shaped.EXPERTS,
)
