"""The tensors of a model as the native decoder takes them: packed where the kernels can use them so, else plain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mediant.checkpoint.reader import Checkpoint
from mediant.forms import Views
from mediant.kernels import native

if TYPE_CHECKING:
    from mediant.models.weights import WeightReader

Floats = NDArray[np.float32]


class Source(Protocol):
    """Where tensors come from, by the names that transformers gives them."""

    def __contains__(self, name: str) -> bool:
        """Returns True if there is such a tensor, under this name or another of it."""

    def name(self, name: str) -> str | None:
        """Returns the first name of the tensor of that name; None where there is none."""

    def matrix(self, name: str) -> Views:
        """Returns a tensor [rows, columns]."""

    def vector(self, name: str) -> Floats:
        """Returns a tensor [count], float32."""


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

    def matrix(self, name: str) -> Views:
        """Views of the stored parts, or the decoded matrix."""
        known = self._names[name]
        entry = self._checkpoint.tensors[known]
        encoding = self._checkpoint.encoding(known, hashed=not entry.plan.mapped(entry.info))
        views = entry.plan.views(entry.info, encoding.parts, entry.side)
        return dense(self._checkpoint.decoded(encoding)) if views is None else replace(views, name=known)

    def vector(self, name: str) -> Floats:
        """Returns a vector of the checkpoint, decoded."""
        return self.weight(name)

    def weight(self, name: str) -> Floats:
        """Returns a tensor of the checkpoint, decoded, in its own shape."""
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

    def matrix(self, name: str) -> Views:
        """Returns a matrix of the plain model, as float weights."""
        return dense(self._reader.read(name))

    def vector(self, name: str) -> Floats:
        """Returns a vector of the plain model, as float weights."""
        return np.asarray(self._reader.read(name), np.float32)


def dense(matrix: Any) -> Views:
    """Returns a float32 matrix."""
    assert native is not None
    return Views((native.dense_linear(np.ascontiguousarray(matrix, np.float32)),))


def _names(tensors: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, entry in tensors.items():
        yield name, name
        for alias in entry.info.aliases:
            yield alias, name
