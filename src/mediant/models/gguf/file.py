"""A GGUF file: its header as values, its tensors dequantized one at a time when they are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, ReaderTensor, dequantize
from numpy.typing import NDArray

from mediant.errors import ModelError
from mediant.models import impostors

LONG = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.scores", "tokenizer.ggml.token_type")
"""Keys whose values are as long as the vocabulary; of these only the length is read."""


@dataclass(frozen=True)
class GGUFFile:
    """An opened file: `fields` by key, tensors by name; the bytes stay mapped."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, ReaderTensor]

    @classmethod
    def open(cls, path: Path) -> GGUFFile:
        """Reads the header.

        Raises:
            ModelError: the file is damaged or cut short, or is not one whole model.
        """
        impostors.check(path)
        with path.open("rb") as start:
            if start.read(4) != b"GGUF":
                raise ModelError(f"{path} is not a GGUF file: it does not begin with the letters GGUF.")
        try:
            reader = _Reader(path)
            fields = {name: _value(name, field) for name, field in reader.fields.items()}
        except ModelError:
            raise
        except Exception as problem:  # the reader stumbles in any way over wrong lengths
            raise ModelError(
                f"The GGUF file {path} is damaged, cut short ({path.stat().st_size} bytes are there) or of an unknown"
                f" version; download it again: {problem!r}"
            ) from problem
        _check_model(path, fields)
        return cls(path, fields, {tensor.name: tensor for tensor in reader.tensors})

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture."""
        return str(self.fields["general.architecture"])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor in torch's order, slowest axis first."""
        return tuple(int(n) for n in reversed(self.tensors[name].shape))

    def read(self, name: str) -> NDArray[np.float32]:
        """A tensor's values in float32, dequantized now.

        Raises:
            ModelError: it is of a type that the gguf package cannot dequantize.
        """
        tensor = self.tensors[name]
        try:
            values: NDArray[np.float32] = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        except NotImplementedError as problem:
            raise ModelError(
                f"The tensor {name!r} of {self.path} is of the type {tensor.tensor_type.name}, which cannot be"
                f" dequantized: {problem}"
            ) from None
        return values.reshape(self.shape(name))


class _Reader(GGUFReader):  # type: ignore[misc]
    """The package's reader, which says how much of a file is missing."""

    def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:
        ends = [start_offs]
        for field in fields:
            *_, dims, kind, offset = field.parts
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind[0])]
            ends.append(start_offs + int(offset[0]) + math.prod(dims.tolist()) // block * size)
        if max(ends) > len(self.data):
            raise ModelError(
                f"The GGUF file {self.data.filename} has {len(self.data)} of its {max(ends)} bytes; download it again."
            )
        super()._build_tensors(start_offs, fields)


def _value(name: str, field: Any) -> Any:
    return len(field.data) if name in LONG else field.contents()


def _check_model(path: Path, fields: dict[str, Any]) -> None:
    kind = fields.get("general.type", "model")
    if kind != "model" or "general.architecture" not in fields:
        raise ModelError(f"The GGUF file {path} is not a model but {kind!r}; give the model itself.")
    if fields.get("split.count", 1) > 1:
        raise ModelError(
            f"{path} is one of {fields['split.count']} parts of a model; merge them first (llama-gguf-split --merge)."
        )
