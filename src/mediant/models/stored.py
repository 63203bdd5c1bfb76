"""The weights of a folder, wherever they lie: in its safetensors files, or in the GGUF file that it stands for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from mediant.errors import ModelError
from mediant.models import impostors
from mediant.models.folder import weight_files

DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
GGUF = ".gguf"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as it lies in a file; `dtype` by its NumPy name (`bfloat16` included)."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Reads the headers of the weight files, by tensor name.

    Raises:
        ModelError: a file is damaged.
    """
    found: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        if is_gguf(file):
            found |= {n: StoredTensor(n, file, t.shape, "float32") for n, t in _network(file).tensors.items()}
            continue
        with opened(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                piece = tensors.get_slice(name)
                code = piece.get_dtype()
                found[name] = StoredTensor(name, file, tuple(piece.get_shape()), DTYPES.get(code, code.lower()))
    return found


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Any]:
    """A weight file as torch tensors by `get_tensor`: safetensors memory-mapped, GGUF dequantized when read.

    Raises:
        ModelError: it is damaged.
    """
    if is_gguf(file):
        yield _Dequantized(file)
        return
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as problem:
        impostors.check(file)
        impostors.check_length(file)
        raise ModelError(f"The weight file {file} is damaged: {problem}") from problem


def rows(tensors: Any, name: str, where: slice) -> NDArray[np.float32] | None:
    """Returns some entries of the first axis of a tensor in an opened file; None where only all can be read."""
    if isinstance(tensors, _Dequantized):
        return tensors.get_rows(name, where)
    found: torch.Tensor = tensors.get_slice(name)[where]
    return found.float().numpy()


def is_gguf(file: Path) -> bool:
    """Says whether a weight file is a GGUF file, whose tensors are read anew each time."""
    return file.suffix.lower() == GGUF


class _Dequantized:
    """The tensors of the network in a GGUF file; any thread may read."""

    def __init__(self, file: Path):
        self._network = _network(file)

    def get_tensor(self, name: str) -> torch.Tensor:
        """Returns a tensor, float32, which nobody else has."""
        found: torch.Tensor = self._network.tensors[name].read()
        return found

    def get_rows(self, name: str, where: slice) -> NDArray[np.float32] | None:
        """Returns some entries of its first axis; None where the file has them in another order."""
        read = self._network.rows.get(name)
        found: NDArray[np.float32] | None = None if read is None else read(where)
        return found


def _network(file: Path) -> Any:
    status = file.stat()
    return _described(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2)
def _described(file: Path, size: int, changed: int) -> Any:
    """Returns the network in a file of that size and time of change; its header takes long to read."""
    from mediant.models.gguf.file import GGUFFile
    from mediant.models.gguf.network import network

    return network(GGUFFile.open(file))
