"""StableLM: layer norms, a part of each head rotated, attention and MLP side by side in some."""

from __future__ import annotations

from typing import Any

from mediant.models.gguf import rotary
from mediant.models.gguf.families import _llama_shaped as shaped
from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Family


def settings(header: Header) -> dict[str, Any]:
    """Returns the arguments of `StableLmConfig`."""
    found = shaped.sizes(header)
    head = shaped.head_size(header)
    header.expect("attention.key_length", found["hidden_size"] // found["num_attention_heads"])
    parallel = not shaped.has_any(header, "ffn_norm.weight")
    header.take("use_parallel_residual", parallel)
    return found | {
        "layer_norm_eps": float(header.take("attention.layer_norm_epsilon")),
        "rope_parameters": {"partial_rotary_factor": 1.0} | rotary.parameters(header, head, partial=True),
        "use_qkv_bias": shaped.has_any(header, "attn_q.bias"),
        "use_parallel_residual": parallel,
    }


FAMILY = Family(network="StableLmForCausalLM", settings=settings, parts=shaped.PLAIN)
