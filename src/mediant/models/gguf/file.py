"""A GGUF file: its header as values, its tensors dequantized one at a time when they are asked for.

Bytes are read and not mapped, so that what was read long ago does not count as memory of the process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFValueType, ReaderTensor, dequantize
from numpy.typing import NDArray

from mediant.errors import ModelError
from mediant.models import impostors

LONG = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.scores", "tokenizer.ggml.token_type")
"""Keys whose values are as long as the vocabulary; of these only the length is read."""

AT_ONCE = 12_288
"""Weights of one row that the gguf package is given: it dequantizes 16 rows in a turn, and short ones take longer."""


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
        """Returns the shape of a tensor in torch's order, slowest axis first."""
        return tuple(int(n) for n in reversed(self.tensors[name].shape))

    def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """Returns a tensor's values in float32, dequantized now; those of some rows, entries of its first axis, if
        asked.

        Raises:
            ModelError: it is of a type that the gguf package cannot dequantize, or the file has become shorter.
        """
        tensor, shape = self.tensors[name], self.shape(name)
        begin, end, _ = (rows or slice(None)).indices(shape[0])
        raw = self._raw(tensor, shape, begin, end)
        try:
            values: NDArray[np.float32] = np.asarray(dequantize(raw, tensor.tensor_type), np.float32)
        except NotImplementedError as problem:
            raise ModelError(
                f"The tensor {name!r} of {self.path} is of the type {tensor.tensor_type.name}, which cannot be"
                f" dequantized: {problem}"
            ) from None
        return values.reshape(end - begin, *shape[1:])

    def _raw(self, tensor: ReaderTensor, shape: tuple[int, ...], begin: int, end: int) -> NDArray[Any]:
        """Returns the stored numbers of some entries of the first axis, in rows that are long enough to be fast."""
        step = tensor.data.nbytes // shape[0]
        count = (end - begin) * step // tensor.data.itemsize
        found = np.fromfile(self.path, tensor.data.dtype, count, offset=int(tensor.data_offset) + begin * step)
        if found.size != count:
            raise ModelError(f"The GGUF file {self.path} has become shorter while it was read.")
        if tensor.data.ndim < 2:
            return found
        long, row = found.reshape(-1, tensor.data.shape[-1]), max(1, shape[-1])
        together = max((k for k in (8, 4, 2, 1) if len(long) % k == 0 and (k == 1 or k * row <= AT_ONCE)), default=1)
        return long.reshape(len(long) // together, -1)


class _Reader(GGUFReader):  # type: ignore[misc]
    """The package's reader, which says how much of a file is missing, and reads long arrays in a tenth of the time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(path)

    def _build_fields(self, offs: int, count: int) -> int:
        # A view without the bookkeeping of maps, which takes longer than all else where a vocabulary is read.
        self.data: Any = self.data.view(np.ndarray)
        return int(super()._build_fields(offs, count))

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        """Size, parts, places of the values among the parts, and types of a field."""
        if raw_type != GGUFValueType.ARRAY or self.byte_order != "I":
            return super()._get_field_parts(orig_offs, raw_type)
        kind, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
        item, count, begin = GGUFValueType(int(kind[0])), int(length[0]), orig_offs + 12
        if item == GGUFValueType.STRING:
            parts, end = self._strings(begin, count)
            places = range(3, 3 + 2 * count, 2)
        elif item in self.gguf_scalar_to_np:
            numbers = self._get(begin, self.gguf_scalar_to_np[item], count)
            parts, end = [numbers[i : i + 1] for i in range(count)], begin + numbers.nbytes
            places = range(2, 2 + count)
        else:
            return super()._get_field_parts(orig_offs, raw_type)
        if end > len(self.data) or len(parts) < len(places):
            raise ValueError("an array goes beyond the end of the file")
        types = [GGUFValueType.ARRAY, *([item] if count else [])]
        return end - orig_offs, [kind, length, *parts], list(places), types

    def _strings(self, begin: int, count: int) -> tuple[list[NDArray[Any]], int]:
        """Lengths and letters of so many strings, and where they end."""
        parts: list[NDArray[Any]] = []
        for _ in range(count):
            length = self.data[begin : begin + 8].view(np.uint64)
            end = begin + 8 + int(length[0])
            parts += [length, self.data[begin + 8 : end]]
            begin = end
        return parts, begin

    def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:
        ends = [start_offs]
        for field in fields:
            *_, dims, kind, offset = field.parts
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind[0])]
            ends.append(start_offs + int(offset[0]) + math.prod(dims.tolist()) // block * size)
        if max(ends) > len(self.data):
            raise ModelError(
                f"The GGUF file {self.path} has {len(self.data)} of its {max(ends)} bytes; download it again."
            )
        super()._build_tensors(start_offs, fields)


def _value(name: str, field: Any) -> Any:
    return len(field.data) if name in LONG else field.contents()


def _check_model(path: Path, fields: dict[str, Any]) -> None:
    kind = fields.get("general.type", "model")
    if kind != "model" or "general.architecture" not in fields:
        raise ModelError(f"The GGUF file {path} is not a model but {kind!r}; give the model itself.")
    if fields.get("split.count", 1) not in (0, 1):
        raise ModelError(
            f"{path} is one of {fields['split.count']} parts of a model; merge them first (llama-gguf-split --merge)."
        )
