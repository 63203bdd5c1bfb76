"""A decoder as the native runtime sees it: sizes, what each layer does, and where its tensors are.

A family of models (`mediant.runtime.families`) turns a configuration into this; everything behind it is the same for
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
from mediant.models.configuration import Configuration

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
}


class UnsupportedModel(ModelError):  # noqa: N818
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
    module the model lacks is absent. `single` has those outside the layers. `biased` are the roles of the matrices that
    come with a bias.
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
    biased: frozenset[str] = frozenset()
    activation: str = "silu"
    epsilon: float = 1e-6
    layer_norm: bool = False
    norm_weights: bool = True
    norm_first: bool = True
    norm_offset: float = 0.0
    attention_scale: float = 1.0
    attention_cap: float = 0.0
    logit_cap: float = 0.0
    embedding_scale: float = 1.0
    position_offset: int = 0

    def shape(self) -> dict[str, Any]:
        """Returns the numbers for the native side."""
        names = (
            "hidden", "heads", "kv_heads", "head_dim", "inner", "vocabulary", "positions", "embedding", "layer_norm",
            "norm_first", "epsilon", "attention_scale", "attention_cap", "logit_cap", "embedding_scale", "activation",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


# Entries without a part in the logits of one sequence. Tensors decide whether head and embedding are one. `auto_map`
# names code that comes with the model, which does not run here.
IRRELEVANT = frozenset((
    "architectures", "model_type", "transformers_version", "dtype", "tie_word_embeddings",
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "mask_token_id",
    "attention_dropout", "dropout", "layerdrop", "initializer_range", "init_std", "pretraining_tp", "use_cache",
    "output_attentions", "output_hidden_states", "return_dict", "id2label", "label2id", "problem_type",
    "is_decoder", "add_cross_attention", "tie_encoder_decoder", "gradient_checkpointing", "prefix", "tokenizer_class",
    "torchscript", "pruned_heads", "activation_dropout", "auto_map",
))  # fmt: skip


class Config:
    """A resolved configuration; absent or strange entries become `UnsupportedModel`, with one sentence.

    >>> Config(Configuration({"hidden_size": 8, "rms_norm_eps": None}, frozenset())).whole("hidden_size")
    8
    """

    def __init__(self, configuration: Configuration):
        self.entries = configuration.entries
        self._unread = set(configuration.telling) - IRRELEVANT
        # Sinks, blocks and the like (methods/structure/attention.py); a plain window is in the model's own entries.
        if any(self.get("mediant_attention_layers") or ()):
            raise UnsupportedModel(
                "some of its layers have an attention pattern that only transformers computes so far"
            )

    def check_all_read(self) -> None:
        """Refuses entries that change the network and that no family asked for.

        Raises:
            UnsupportedModel: there is one.
        """
        for name in sorted(self._unread):
            raise UnsupportedModel(
                f"its config.json sets {name} to {self.entries[name]!r}, which only transformers heeds"
            )

    def get(self, name: str) -> Any:
        """Returns the entry; None where it is absent or null."""
        self._unread.discard(name)
        return self.entries.get(name)

    def whole(self, name: str) -> int:
        """Returns a positive whole number."""
        found = self.get(name)
        if type(found) is not int or found < 1:
            raise UnsupportedModel(f"its config.json gives {name} as {found!r}, not as a positive whole number")
        return found

    def real(self, name: str) -> float:
        """Returns a finite number."""
        return real(name, self.get(name))

    def truth(self, name: str) -> bool:
        """Returns a truth value; null is false, as it is in Python."""
        found = self.get(name)
        if not isinstance(found, bool | None):
            raise UnsupportedModel(f"its config.json gives {name} as {found!r}, not as true or false")
        return bool(found)

    def cap(self, name: str) -> float:
        """Returns a soft cap; 0 where it is null, which is none."""
        found = 0.0 if self.get(name) is None else self.real(name)
        if self.get(name) is not None and found <= 0:
            raise UnsupportedModel(f"its config.json gives {name} as {found!r}, not as a positive number")
        return found

    def activation(self, name: str) -> str:
        """Returns the activation of the MLP."""
        found = self.get(name)
        if found not in ACTIVATIONS:
            raise UnsupportedModel(f"its activation {found!r} is not among {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[found]

    def windows(self) -> list[int]:
        """Returns the reach of each layer by `layer_types`: `sliding_window` positions where it slides, else all
        (0).
        """
        kinds, known = self.get("layer_types"), {"sliding_attention": True, "full_attention": False}
        layers = self.whole("num_hidden_layers")
        if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in known for kind in kinds):
            raise UnsupportedModel(f"its layer_types are not {layers} times sliding_attention or full_attention")
        self.get("sliding_window")
        return [self.whole("sliding_window") if known[kind] else 0 for kind in kinds]


def real(name: str, found: Any) -> float:
    """Returns a finite number of a configuration.

    Raises:
        UnsupportedModel: it is none.
    """
    if type(found) not in (int, float) or not np.isfinite(found):
        raise UnsupportedModel(f"its config.json gives {name} as {found!r}, not as a number")
    return float(found)
