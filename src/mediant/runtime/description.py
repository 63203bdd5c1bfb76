"""A decoder as the native runtime sees it: sizes, what each layer does, and where its tensors are.

A family of models (`mediant.runtime.families`) turns a `config.json` into this; everything behind it is the same for
all of them. In layer l, with a norm N before (`norm_first`) or behind each half,

    q, k, v = rotated heads of Wq x, Wk x, Wv x      (norms of their own on q and k where there are such)
    x += P(Wo attention(q, k, v))                    (P: norm behind the product, where there is one)
    x += P(Wdown (act(Wgate x) * Wup x))             (or Wdown act(Wup x), without a gate)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediant.errors import ModelError

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
}


class Unsupported(ModelError):  # noqa: N818
    """The native decoder does not run such a model; the message says what is in the way."""


@dataclass(frozen=True, eq=False)
class Rope:
    """A rotation of queries and keys: radians per position of each pair of dimensions, and a factor of its matrix."""

    frequencies: NDArray[np.float32]
    scale: float = 1.0


@dataclass(frozen=True)
class LayerShape:
    """What differs between layers: the positions in reach (0: all), and which rotation (-1: none)."""

    window: int = 0
    rope: int = 0


@dataclass(frozen=True, eq=False)
class Description:
    """A decoder without its weights.

    `matrices` and `norms` give the name of the module of each tensor by its role, with `{}` for the layer; a role whose
    module the model lacks is absent. `single` has those outside the layers. Biases are found beside their weights.
    """

    family: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocabulary: int
    positions: int
    embedding: int
    layers: tuple[LayerShape, ...]
    ropes: tuple[Rope, ...]
    matrices: Mapping[str, str]
    norms: Mapping[str, str]
    single: Mapping[str, str]
    activation: str = "silu"
    epsilon: float = 1e-6
    layer_norm: bool = False
    norm_first: bool = True
    norm_offset: float = 0.0
    attention_scale: float = 1.0
    attention_cap: float = 0.0
    logit_cap: float = 0.0
    embedding_scale: float = 1.0
    position_offset: int = 0

    def shape(self) -> dict[str, Any]:
        """The numbers for the native side."""
        names = (
            "hidden", "heads", "kv_heads", "head_dim", "inner", "vocabulary", "positions", "embedding", "layer_norm",
            "norm_first", "epsilon", "attention_scale", "attention_cap", "logit_cap", "embedding_scale", "activation",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


class Config:
    """A `config.json` whose absent or strange entries become `Unsupported`, with one sentence.

    >>> Config({"hidden_size": 8, "rms_norm_eps": None}).whole("hidden_size")
    8
    """

    def __init__(self, entries: Mapping[str, Any]):
        self.entries = entries
        # Sinks, blocks and the like (methods/structure/attention.py); a plain window is in the model's own entries.
        if any(entries.get("mediant_attention_layers") or ()):
            raise Unsupported("some of its layers have an attention pattern that only transformers computes so far")

    def get(self, name: str, default: Any = None) -> Any:
        """The entry, or the default where it is absent or null."""
        found = self.entries.get(name)
        return default if found is None else found

    def whole(self, name: str, default: int | None = None) -> int:
        """A positive whole number."""
        found = self.get(name, default)
        if type(found) is not int or found < 1:
            raise Unsupported(f"its config.json gives {name} as {found!r}, not as a positive whole number")
        return found

    def real(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        found = self.get(name, default)
        if type(found) not in (int, float) or not np.isfinite(found):
            raise Unsupported(f"its config.json gives {name} as {found!r}, not as a number")
        return float(found)

    def activation(self, *names: str) -> str:
        """The activation of the MLP, under the first of the names that is there."""
        found = next((self.get(name) for name in names if self.get(name) is not None), None)
        if found not in ACTIVATIONS:
            raise Unsupported(f"its activation {found!r} is not among {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[found]

    def sliding(self, layers: int, otherwise: tuple[bool, ...]) -> tuple[bool, ...]:
        """Which layers have a sliding window, from `layer_types` where it is there."""
        kinds = self.get("layer_types")
        if kinds is None:
            return otherwise
        known = {"sliding_attention": True, "full_attention": False}
        if len(kinds) != layers or any(kind not in known for kind in kinds):
            raise Unsupported(f"its layer_types are not {layers} times sliding_attention or full_attention")
        return tuple(known[kind] for kind in kinds)
