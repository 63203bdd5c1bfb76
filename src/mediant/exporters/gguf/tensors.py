"""Tensors as GGUF has them: names, order of rows, types wide enough for every value.

Blocks of q8_0 and q4_0 are 32 values along a row with one float16 scale: a 127th, or an eighth, of the largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

from mediant.errors import ModelError
from mediant.exporters._dense import Dense
from mediant.exporters._ranges import misfit
from mediant.exporters.gguf.architectures import Architecture
from mediant.exporters.gguf.rotary import frequency_factors
from mediant.exporters.gguf.weight_types import TYPES
from mediant.progress import Progress

Floats = NDArray[np.float32]
Quantization = gguf.GGMLQuantizationType
IDS = {kind: Quantization[kind.upper()] for kind in TYPES}
# Largest magnitude of a block over its scale.
STEPS = {"q8_0": 127, "q4_0": 8}
FREQUENCIES = "rope_freqs.weight"


@dataclass(frozen=True)
class Stored:
    """A tensor of the file. `source` is its name in the network; empty for one that is computed."""

    name: str
    source: str
    shape: tuple[int, ...]
    kind: str
    read: Callable[[], Floats]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        block, size = gguf.GGML_QUANT_SIZES[IDS[self.kind]]
        return self.shape[-1] // int(block) * int(size)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return math.prod(self.shape[:-1]) * self.row_bytes

    def data(self) -> NDArray[Any]:
        """Returns its blocks, or its numbers."""
        return np.asarray(gguf.quants.quantize(self.read(), IDS[self.kind]))


def stored_tensors(model: Dense, architecture: Architecture, kind: str, progress: Progress) -> Iterator[Stored]:
    """Yields every tensor of the file; all weights are read once to choose their types.

    Raises:
        ModelError: a tensor has no name in this architecture, or holds values that are not finite.
    """
    names = gguf.get_tensor_name_map(architecture.id, int(model.config["num_hidden_layers"]))
    targets = {name: _name(names, name, architecture) for name in model.tensors}
    factors = frequency_factors(model.configuration)
    if factors is not None:
        yield Stored(FREQUENCIES, "", factors.shape, "f32", lambda: factors)
    for name in progress.track(targets, "Checking ranges", len(targets)):
        tensor = model.tensors[name]

        def read(name: str = name) -> Floats:
            values = model.tensors[name].read().float().numpy()
            return ordered(name, values, model.config, architecture)

        yield Stored(targets[name], name, tensor.shape, _type(name, tensor.shape, read, kind, progress), read)


def rounded(values: Floats, kind: str) -> Floats:
    """Rounds values to a type: stores them in it and reads them back."""
    blocks = gguf.quants.quantize(np.ascontiguousarray(values), IDS[kind])
    return np.asarray(gguf.quants.dequantize(blocks, IDS[kind]), np.float32).reshape(values.shape)


def _name(names: gguf.TensorNameMap, name: str, architecture: Architecture) -> str:
    found = names.get_name(name, try_suffixes=(".weight", ".bias"))
    module = name.split(".")[-2] if "." in name else ""
    if found is None or (name.endswith(".bias") and module not in architecture.biased):
        raise ModelError(f"llama.cpp has no place for the tensor {name!r} in the architecture {architecture.name!r}.")
    return str(found)


def _type(name: str, shape: tuple[int, ...], read: Callable[[], Floats], kind: str, progress: Progress) -> str:
    """Vectors stay float32; other tensors have the first type from `kind` on that can hold them."""
    if len(shape) < 2 or kind == "f32":
        return "f32"
    block, _ = gguf.GGML_QUANT_SIZES[IDS[kind]]
    wanted = kind if shape[-1] % block == 0 else "f16"
    values = read()
    if not np.isfinite(values).all():
        raise ModelError(f"The tensor {name!r} holds values that are not finite, which no program can use.")
    for wider in TYPES[TYPES.index(wanted) :]:
        if holds(wider, values):
            if wider != wanted:
                progress.say(f"{name} is stored as {wider}: {wanted} cannot hold {np.abs(values).max():g}, or a row.")
            return wider
    raise AssertionError("float32 holds everything")


def holds(kind: str, values: Floats) -> bool:
    """Returns True if a type keeps every value finite and no whole row zero.

    >>> holds("f16", np.full((1, 32), 1e5, np.float32)), holds("q8_0", np.full((1, 32), 1e5, np.float32))
    (False, True)
    >>> holds("q4_0", np.full((1, 32), 1e-9, np.float32))
    False
    """
    if kind == "f32":
        return True
    if kind == "f16":
        return misfit(torch.from_numpy(values), torch.float16) is None
    block, _ = gguf.GGML_QUANT_SIZES[IDS[kind]]
    if values.shape[-1] % block:
        return False
    largest = np.abs(values).reshape(-1, values.shape[-1] // block, block).max(axis=2)
    with np.errstate(over="ignore"):
        scales = (largest / STEPS[kind]).astype(np.float16)
    vanished = largest.any(axis=1) & ~scales.any(axis=1)
    return bool(np.isfinite(scales).all() and not vanished.any())


def ordered(name: str, values: Floats, config: Mapping[str, Any], architecture: Architecture) -> Floats:
    """Returns the rows of queries and keys, and their biases, in the order in which llama.cpp rotates them."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    module = name.split(".")[-2] if "." in name else ""
    if not architecture.interleaved or module not in heads:
        return np.ascontiguousarray(values)
    return interleaved(values, int(config[heads[module]]))


def interleaved(values: Floats, heads: int) -> Floats:
    """Returns rows of every head: first, first of the second half, second, second of the second half, and so on.

    >>> interleaved(np.arange(8, dtype=np.float32)[:, None], 2).ravel().tolist()
    [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]
    """
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
