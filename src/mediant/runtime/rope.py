"""How fast each pair of dimensions of a query or key turns from position to position.

Pair i of d rotated dimensions turns by base^(-2 i / d) radians a position. Models that were stretched to longer texts
slow these frequencies down: all alike (`linear`), or the slow ones only, with a ramp between (`llama3`; `yarn`, Peng
et al. 2023, arXiv 2309.00071). `dynamic` changes nothing up to the positions the model was made for, and the native
decoder goes no further. Frequencies are float32, computed as transformers does, for models were trained with those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediant.runtime.description import Config, Rope, Unsupported

Floats = NDArray[np.float32]


def rope(config: Config, head_dim: int, kind: str | None = None) -> Rope:
    """The rotation that a configuration states, in the old form (`rope_theta`, `rope_scaling`) or in the new one.

    Args:
        config: of the model.
        head_dim: dimensions of a head.
        kind: the kind of layer, where the configuration has rotations for each.

    Raises:
        Unsupported: a form of rotation that is not known, or one of its numbers is missing.
    """
    given = parameters(config, kind)
    name = given.get("rope_type", given.get("type", "default"))
    if name not in _FORMS:
        raise Unsupported(f"its rotation of positions is {name!r}; there are: {', '.join(_FORMS)}")
    share = given.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    size = int(head_dim * share)
    base = given.get("rope_theta", config.get("rope_theta", 10000.0))
    powers = np.float32(base) ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))
    try:
        return _FORMS[name]((np.float32(1) / powers).astype(np.float32), given, config, float(base), size)
    except KeyError as missing:
        raise Unsupported(f"its rotation {name!r} lacks the entry {missing}") from None


def parameters(config: Config, kind: str | None) -> Mapping[str, Any]:
    """The entries about the rotation, of one kind of layer if they differ."""
    given: Any = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if kind is not None and isinstance(given, Mapping) and kind in given:
        given = given[kind]
    if not isinstance(given, Mapping):
        raise Unsupported("the entries about its rotation of positions are not an object")
    return given


def _default(frequencies: Floats, given: Mapping[str, Any], config: Config, base: float, size: int) -> Rope:
    return Rope(frequencies)


def _linear(frequencies: Floats, given: Mapping[str, Any], config: Config, base: float, size: int) -> Rope:
    return Rope(frequencies / np.float32(given["factor"]))


def _llama3(frequencies: Floats, given: Mapping[str, Any], config: Config, base: float, size: int) -> Rope:
    factor, low, high = (np.float32(given[k]) for k in ("factor", "low_freq_factor", "high_freq_factor"))
    trained = np.float32(given["original_max_position_embeddings"])
    turns = trained / (np.float32(2 * math.pi) / frequencies)  # in the length the model was trained on
    smooth = np.clip((turns - low) / (high - low), 0, 1).astype(np.float32)
    return Rope((1 - smooth) * frequencies / factor + smooth * frequencies)


def _yarn(frequencies: Floats, given: Mapping[str, Any], config: Config, base: float, size: int) -> Rope:
    trained = given["original_max_position_embeddings"]
    factor = given.get("factor") or config.whole("max_position_embeddings") / trained

    def dimension(turns: float) -> float:
        """The pair that turns so often in the length the model was trained on."""
        return size * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = dimension(given.get("beta_fast") or 32), dimension(given.get("beta_slow") or 1)
    if given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    ramp = np.clip((np.arange(size // 2, dtype=np.float32) - low) / ((high - low) or 0.001), 0, 1).astype(np.float32)
    slowed = frequencies / np.float32(factor) * ramp + frequencies * (1 - ramp)
    return Rope(slowed.astype(np.float32), _yarn_scale(given, float(factor)))


def _yarn_scale(given: Mapping[str, Any], factor: float) -> float:
    def scale(by: float) -> float:
        return 0.1 * by * math.log(factor) + 1.0 if factor > 1 else 1.0

    if given.get("attention_factor") is not None:
        return float(given["attention_factor"])
    if given.get("mscale") and given.get("mscale_all_dim"):
        return scale(given["mscale"]) / scale(given["mscale_all_dim"])
    return scale(1.0)


_FORMS = {"default": _default, "linear": _linear, "dynamic": _default, "llama3": _llama3, "yarn": _yarn}
