"""Rotary embeddings in GGUF: base, and scaling by factor, by YaRN, or by one factor for each frequency (Llama 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from mediant.errors import ModelError
from mediant.exporters.gguf.architectures import Architecture

# What each kind of scaling says; llama.cpp has no place for anything else.
KEYS = {
    "default": frozenset(),
    "linear": frozenset(("factor",)),
    "yarn": frozenset(("factor", "original_max_position_embeddings", "beta_fast", "beta_slow")),
    "llama3": frozenset(("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")),
}
# Keys that llama.cpp computes with as if they were absent or this.
IMPLIED = {"partial_rotary_factor": 1.0, "truncate": True}


def add_rotary(writer: gguf.GGUFWriter, config: Mapping[str, Any], architecture: Architecture) -> None:
    """Writes base and scaling.

    Raises:
        ModelError: naming the kind of scaling, or the key, that llama.cpp does not know.
    """
    rope = dict(config.get("rope_parameters") or {})
    kind = _kind(rope, architecture)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000.0)))
    writer.add_rope_scaling_type(_scaling(kind))
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if kind == "yarn":
        original = rope.get("original_max_position_embeddings") or config["max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(int(original))
        writer.add_rope_scaling_yarn_beta_fast(float(rope.get("beta_fast") or 32))
        writer.add_rope_scaling_yarn_beta_slow(float(rope.get("beta_slow") or 1))


def frequency_factors(config: PretrainedConfig) -> NDArray[np.float32] | None:
    """By what llama.cpp divides each frequency, [head size / 2]; None where it divides none."""
    if (config.rope_parameters or {}).get("rope_type") != "llama3":
        return None
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    size = 2 * len(scaled)
    plain = 1.0 / float(config.rope_parameters["rope_theta"]) ** (np.arange(0, size, 2, dtype=np.float64) / size)
    return np.asarray(plain / scaled.double().numpy(), np.float32)


def _kind(rope: dict[str, Any], architecture: Architecture) -> str:
    kind = str(rope.get("rope_type") or "default")
    if kind not in KEYS or (kind == "llama3" and not architecture.factors):
        raise ModelError(
            f"The rotary type {kind!r} is not exported to GGUF for the architecture {architecture.name!r}."
        )
    for key, value in rope.items():
        said = key in KEYS[kind] or key in ("rope_type", "type", "rope_theta")
        if not said and value is not None and value != IMPLIED.get(key):
            raise ModelError(f"GGUF has no place for {key} = {value!r} of the rotary type {kind!r}.")
    return kind


def _scaling(kind: str) -> gguf.RopeScalingType:
    scalings = {"linear": gguf.RopeScalingType.LINEAR, "yarn": gguf.RopeScalingType.YARN}
    return scalings.get(kind, gguf.RopeScalingType.NONE)
