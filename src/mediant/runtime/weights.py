"""The tensors of a model as the native decoder takes them: packed where the kernels can use them so, else plain."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mediant.checkpoint.packing import packed_matrix
from mediant.checkpoint.reader import Checkpoint
from mediant.checkpoint.sparse_blocks import stored_blocks
from mediant.errors import CheckpointError
from mediant.kernels import native
from mediant.kernels.block_sparse import BlockSparse
from mediant.kernels.packed_matrix import PackedMatrix
from mediant.plans import Drop, Run

if TYPE_CHECKING:
    from mediant.models.weights import WeightReader

Floats = NDArray[np.float32]
HALVES = ("float16", "bfloat16")


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix for the native decoder: whole, and then with less and less of it.

    `bits` are the most that each view reads of a code, `runs` the depths of all codes where there are any, `drops` the
    places of the views in the order in which the model gives up bits, where the file has one. `packed` are the matrices
    behind the views, where kernels multiply by codes, and `name` the tensor that they are of.
    """

    views: tuple[Any, ...]
    bits: tuple[int, ...] = ()
    runs: tuple[Run, ...] = ()
    drops: tuple[Drop, ...] = ()
    packed: tuple[PackedMatrix, ...] = ()
    name: str = ""

    @property
    def codes(self) -> int:
        """Number of codes."""
        return sum(run.rows for run in self.runs) * int(self.views[0].columns)

    def code_bits(self, view: int) -> int:
        """Bits of all codes that a view reads."""
        return sum(run.rows * min(run.bits, self.bits[view]) for run in self.runs) * int(self.views[0].columns)


class Source(Protocol):
    """Where tensors come from, by the names that transformers gives them."""

    def __contains__(self, name: str) -> bool:
        """Whether there is such a tensor, under this name or another of it."""

    def name(self, name: str) -> str | None:
        """The first name of the tensor of that name; None where there is none."""

    def matrix(self, name: str) -> Matrix:
        """A tensor [rows, columns]."""

    def vector(self, name: str) -> Floats:
        """A tensor [count], float32."""


class CheckpointSource:
    """The tensors of a compressed model.

    What kernels read as it is stored stays mapped: it is used without being read, so its hashes are not checked, but
    that no scale and no level makes a weight infinite is. Other tensors are read and decoded, and so their hashes are.
    """

    def __init__(self, checkpoint: Checkpoint):
        self._checkpoint = checkpoint
        self._names = dict(_names(checkpoint.tensors))

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def name(self, name: str) -> str | None:
        """Tied tensors share their first."""
        return self._names.get(name)

    def matrix(self, name: str) -> Matrix:
        """Views of the stored parts, or the decoded matrix."""
        known = self._names[name]
        if (blocks := stored_blocks(self._checkpoint, known)) is not None:
            return block_sparse(blocks)
        plan, info = self._checkpoint.tensors[known].plan, self._checkpoint.tensors[known].info
        if plan.method == "cast" and plan.dtype in HALVES and info.layout == "out_in":
            return half(self._checkpoint.encoding(known, hashed=False).parts["data"], plan.dtype)
        if plan.method != "quantize" or plan.storage == "rows" or info.layout != "out_in":
            return dense(self.weight(name))
        encoding, form = self._checkpoint.encoding(known, hashed=False), self._checkpoint.tensors[known].form
        deepest = max(run.bits for run in plan.runs)
        packed = [packed_matrix(encoding, form)]
        bits = [deepest]
        for fewer in range(deepest - 1, 1, -1) if plan.storage == "nested" else ():
            with contextlib.suppress(CheckpointError):
                packed.append(packed_matrix(encoding, form, fewer))
                bits.append(fewer)
        assert native is not None
        views = tuple(native.packed_linear(matrix.handle) for matrix in packed)
        return Matrix(views, tuple(bits), plan.runs, plan.drops, tuple(packed), known)

    def vector(self, name: str) -> Floats:
        """Decoded."""
        return self.weight(name)

    def weight(self, name: str) -> Floats:
        """Decoded, in the tensor's own shape."""
        return self._checkpoint.weight(self._names[name])


class ModelSource:
    """The tensors of a plain model, in float32."""

    def __init__(self, reader: WeightReader):
        self._reader = reader
        self._names = {name: t.name for t in reader.model.tensors for name in (t.name, *t.aliases)}

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def name(self, name: str) -> str | None:
        """Tied tensors share their first."""
        return self._names.get(name)

    def matrix(self, name: str) -> Matrix:
        """As it is."""
        return dense(self._reader.read(name))

    def vector(self, name: str) -> Floats:
        """As it is."""
        return np.asarray(self._reader.read(name), np.float32)


def block_sparse(matrix: BlockSparse) -> Matrix:
    """A float32 matrix without its zero blocks."""
    assert native is not None
    return Matrix((native.block_sparse_linear(matrix.values, matrix.starts, matrix.width, matrix.columns),))


def dense(matrix: Any) -> Matrix:
    """A float32 matrix."""
    assert native is not None
    return Matrix((native.dense_linear(np.ascontiguousarray(matrix, np.float32)),))


def half(matrix: Any, dtype: str) -> Matrix:
    """A matrix of float16 or bfloat16, used where it is."""
    assert native is not None
    return Matrix((native.half_linear(matrix.view(np.uint16), dtype == "bfloat16"),))


def _names(tensors: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, entry in tensors.items():
        yield name, name
        for alias in entry.info.aliases:
            yield alias, name
