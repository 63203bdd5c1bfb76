"""Gemma 3, the text model: five layers of six slide, with a rotary base of their own and without scaling."""

from __future__ import annotations

from typing import Any

from mediant.models.gguf.families import _gemma_shaped as gemma
from mediant.models.gguf.families import _llama_shaped as shaped
from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Family

LARGE = 62
USUAL_BASE, SLIDING_BASE = 1_000_000.0, 10_000.0


def settings(header: Header) -> dict[str, Any]:
    """Returns the arguments of `Gemma3TextConfig`."""
    found = shaped.settings(header)
    full = found["rope_parameters"]
    if "rope.freq_base" not in header:
        full = full | {"rope_theta": USUAL_BASE}
    sliding = {"rope_type": "default", "rope_theta": float(header.take("rope.freq_base_swa", SLIDING_BASE))}
    found["rope_parameters"] = {"full_attention": full, "sliding_attention": sliding}
    found |= gemma.window(header, 6) | gemma.soft_caps(header, None, None)
    return found | {"query_pre_attn_scalar": gemma.query_scalar(header, found["head_dim"], LARGE)}


FAMILY = Family(
    network="Gemma3ForCausalLM",
    settings=settings,
    parts=gemma.less_one_in_norms(shaped.PLAIN | shaped.HEAD_NORMS | gemma.NORMS_AROUND),
)
