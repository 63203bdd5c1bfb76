"""Gemma 2: every second layer slides, scores and logits are capped."""

from __future__ import annotations

from typing import Any

from mediant.models.gguf.families import _gemma_shaped as gemma
from mediant.models.gguf.families import _llama_shaped as shaped
from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Family

LARGE = 46


def settings(header: Header) -> dict[str, Any]:
    """Returns the arguments of `Gemma2Config`."""
    found = shaped.settings(header)
    found |= gemma.window(header, 2) | gemma.soft_caps(header, 50.0, 30.0)
    return found | {"query_pre_attn_scalar": gemma.query_scalar(header, found["head_dim"], LARGE)}


FAMILY = Family(
    network="Gemma2ForCausalLM",
    settings=settings,
    parts=gemma.less_one_in_norms(shaped.PLAIN | gemma.NORMS_AROUND),
)
