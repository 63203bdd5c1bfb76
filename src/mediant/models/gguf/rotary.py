"""Rotary positions of a GGUF file as transformers' `rope_parameters`: base, share of the head, and scaling.

Scalings are linear, YaRN, LongRoPE by two tensors of factors, and Llama 3's by one tensor. Of the last, the file
has only the factors, so the parameters are found from which they follow.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediant.errors import ModelError
from mediant.models.gguf.header import Header

USUAL_BASE = 10_000.0
FREQUENCIES, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Of every Llama 3.1, 3.2 and 3.3 and their kin; they differ in the factor alone."""

CLOSE = 64 * float(np.finfo(np.float32).eps)
"""Relative: a factor is a handful of float32 operations on a frequency that a power in float32 gave."""


def parameters(header: Header, head: int, partial: bool = False) -> dict[str, Any]:
    """Base and scaling for heads of `head` dimensions, all of them rotated unless `partial` allows fewer.

    Raises:
        ModelError: the scaling is of no kind that transformers has.
    """
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": float(header.take("rope.freq_base", USUAL_BASE))}
    if partial:
        rotated = int(header.take("rope.dimension_count", head))
        if rotated != head:
            found["partial_rotary_factor"] = rotated / head
    else:
        header.expect("rope.dimension_count", head)
        rotated = head
    return found | _scaling(header, found["rope_theta"], rotated)


def _scaling(header: Header, base: float, rotated: int) -> dict[str, Any]:
    tensors = header.file.tensors
    factor = float(header.take("rope.scaling.factor", header.take("rope.scale_linear", 0.0)) or 1.0)
    kind = header.take("rope.scaling.type", "longrope" if LONG in tensors else "linear")
    if kind == "longrope" or LONG in tensors or SHORT in tensors:
        return _longrope(header)
    if FREQUENCIES in tensors:
        return _llama3(header, base, rotated)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        header.take("rope.scaling.original_context_length", 0)
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return _yarn(header, factor)
    raise ModelError(f"The rotary scaling {kind!r} of the GGUF file {header.file.path} is not known.")


def _yarn(header: Header, factor: float) -> dict[str, Any]:
    found: dict[str, Any] = {"rope_type": "yarn", "factor": factor}
    context = int(header.take("context_length"))
    found["original_max_position_embeddings"] = int(
        header.take("rope.scaling.original_context_length", round(context / factor))
    )
    for name, usual in (("beta_fast", 32.0), ("beta_slow", 1.0)):
        found[name] = float(header.take(f"rope.scaling.yarn_{name}", usual))
    more = float(header.take("rope.scaling.attn_factor", 1.0)) * float(header.take("rope.scaling.yarn_attn_factor", 1))
    if more != 1.0:
        found["attention_factor"] = more * (1 + 0.1 * math.log(factor))
    return found


def _longrope(header: Header) -> dict[str, Any]:
    file = header.file
    if LONG not in file.tensors or SHORT not in file.tensors:
        raise ModelError(f"The GGUF file {file.path} has one of {LONG} and {SHORT}, and needs both.")
    context = int(header.take("context_length"))
    original = int(header.take("rope.scaling.original_context_length", context))
    ratio = context / original
    usual = math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 else 1.0
    return {
        "rope_type": "longrope",
        "short_factor": [float(x) for x in file.read(SHORT)],
        "long_factor": [float(x) for x in file.read(LONG)],
        "original_max_position_embeddings": original,
        "attention_factor": float(header.take("rope.scaling.attn_factor", usual)),
    }


def _llama3(header: Header, base: float, rotated: int) -> dict[str, Any]:
    factors = header.file.read(FREQUENCIES).astype(np.float64)
    if np.all(factors == 1):
        return {}
    original = header.take("rope.scaling.original_context_length", LLAMA3["original_max_position_embeddings"])
    found = {**LLAMA3, "factor": float(factors.max()), "original_max_position_embeddings": int(original)}
    expected = llama3_factors(
        base,
        rotated,
        found["factor"],
        found["low_freq_factor"],
        found["high_freq_factor"],
        int(original),
    )
    if factors.shape != expected.shape or np.abs(factors / expected - 1).max() > CLOSE:
        raise ModelError(
            f"The tensor {FREQUENCIES} of the GGUF file {header.file.path} scales rotary frequencies in a way that is"
            " not Llama 3's; give the Hugging Face folder it was made from."
        )
    return {"rope_type": "llama3", **found}


def llama3_factors(
    base: float,
    rotated: int,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> NDArray[np.float64]:
    """Returns the divisors [rotated / 2] of the rotary frequencies that Llama 3's scaling amounts to.

    Waves longer than the original context over `low_freq_factor` are slowed by `factor`, those shorter than it over
    `high_freq_factor` stay, and between them the inverse goes linearly with the number of waves in the context.
    """
    frequencies = np.float64(base) ** -(np.arange(0, rotated, 2) / rotated)
    waves = original_max_position_embeddings * frequencies / (2 * math.pi)
    smooth = np.clip((waves - low_freq_factor) / (high_freq_factor - low_freq_factor), 0, 1)
    return np.asarray(1 / ((1 - smooth) / factor + smooth))
