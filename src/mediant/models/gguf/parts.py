"""How a tensor of a network comes from tensors of a GGUF file, and the record of an architecture that says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PretrainedConfig

from mediant.models.gguf.header import Header

Floats = NDArray[np.float32]
Change = Callable[[Sequence[Floats], PretrainedConfig], Floats]


def alone(values: Sequence[Floats], config: PretrainedConfig) -> Floats:
    """Returns the one tensor as it is."""
    return values[0]


@dataclass(frozen=True)
class Part:
    """Tensors of the file, `{n}` for the layer, and the change that makes one tensor of the network of them."""

    names: tuple[str, ...]
    change: Change = alone


@dataclass(frozen=True)
class Family:
    """An architecture of GGUF files.

    `network` is the class in transformers; `settings` takes the numbers of the header and gives the arguments of its
    configuration. `parts` are by the network's names, `{n}` for the layer; a name without its ending stands for
    `.weight` and `.bias` alike. Tensors in `zero` are zero where the file lacks them: biases that the network has
    because others have, as the configuration switches them together.
    """

    network: str
    settings: Callable[[Header], dict[str, Any]]
    parts: Mapping[str, Part]
    zero: tuple[str, ...] = ()


def _rotary_halves(values: Floats, heads: int) -> Floats:
    """Returns rows of each head: neighbours are rotated in llama.cpp's Llama, the two halves of a head in
    transformers.
    """
    pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def rotated_queries(values: Sequence[Floats], config: PretrainedConfig) -> Floats:
    """Returns rows of queries, or their bias, in transformers' order."""
    return _rotary_halves(values[0], config.num_attention_heads)


def rotated_keys(values: Sequence[Floats], config: PretrainedConfig) -> Floats:
    """Returns rows of keys, or their bias, in transformers' order."""
    return _rotary_halves(values[0], config.num_key_value_heads)


def less_one(values: Sequence[Floats], config: PretrainedConfig) -> Floats:
    """Norms that transformers stores as the difference to one."""
    return values[0] - np.float32(1)


def transposed(values: Sequence[Floats], config: PretrainedConfig) -> Floats:
    """Matrices whose inputs come first in transformers, of one or of many experts; vectors as they are."""
    return values[0] if values[0].ndim < 2 else np.ascontiguousarray(values[0].swapaxes(-1, -2))


def as_row(values: Sequence[Floats], config: PretrainedConfig) -> Floats:
    """Returns a vector as a matrix of one row."""
    return values[0].reshape(1, -1)


def gate_over_up(values: Sequence[Floats], config: PretrainedConfig) -> Floats:
    """Two stacks of experts [experts, rows, columns] as one whose matrices lie under one another."""
    return np.concatenate(values, axis=1)
