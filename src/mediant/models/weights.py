"""Reads a model's weights one tensor at a time, straight from its files."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cached_property, partial
from types import TracebackType
from typing import Self

import numpy as np
import torch

from mediant.errors import ModelError
from mediant.models import architecture, names, reference, roles, stored
from mediant.models.lazy import LazyTensor
from mediant.models.matrix_form import to_matrix
from mediant.values import Array, Model, TensorInfo


class WeightReader:
    """The weights of `model`, read when they are asked for, by any thread; a context manager that frees them.

    Files are opened for each tensor anew, so that what was read does not stay mapped. A tensor that lies in the files
    as the network has it costs its own size in memory. Where transformers puts tensors together on load (experts
    stored one by one), the first such tensor loads the whole model, in the precision in which it is stored.
    """

    def __init__(self, model: Model):
        self.model = model
        network = architecture.empty_network(architecture.load_config(model.path))
        self._stored = stored.stored_tensors(model.path)
        self._direct = names.match(network, self._stored, roles.ties(network)).direct
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__dict__.pop("_loaded", None)

    def read(self, name: str) -> Array:
        """Returns the tensor of that name or alias: a float32 copy in its own shape.

        Raises:
            KeyError: the model has no such tensor.
            ModelError: it holds NaN or infinity, or its file is damaged.
        """
        info = self.model.tensor(name)
        given = self.stored(name)
        values: Array = given.to(torch.float32, copy=not self._fresh(name)).numpy()
        self._check_finite(info, values)
        return values

    def rows(self, name: str, begin: int, end: int) -> Array:
        """Returns rows of a tensor's matrix form, float32 [end - begin, columns], as `read` gives them and with less
        memory.

        Raises:
            KeyError, ModelError: as for `read`.
        """
        info, key = self.model.tensor(name), self.key(name)
        found = None
        if key is not None and info.layout == "out_in":
            with stored.opened(self._stored[key].file) as tensors:
                found = stored.rows(tensors, key, slice(begin, end))
        if found is None:
            return np.ascontiguousarray(to_matrix(self.read(name), info)[begin:end])
        self._check_finite(info, found)
        return found

    def _check_finite(self, info: TensorInfo, values: Array) -> None:
        wrong = values.size - int(np.count_nonzero(np.isfinite(values)))
        if wrong:
            raise ModelError(
                f"The tensor {info.name!r} of {self.model.path} holds {wrong} values that are not finite;"
                " a model with NaN or infinity in its weights cannot be compressed."
            )

    def stored(self, name: str) -> torch.Tensor:
        """Returns the tensor of that name or alias, as it is stored and unchecked.

        Raises:
            KeyError, ModelError: as for `read`.
        """
        info = self.model.tensor(name)
        given = next((n for n in (info.name, *info.aliases) if n in self._direct), None)
        if given is None:
            with self._turn:
                return self._loaded[info.name]
        key = self._direct[given]
        with stored.opened(self._stored[key].file) as tensors:
            tensor: torch.Tensor = tensors.get_tensor(key)
        return tensor

    def lazy(self) -> dict[str, LazyTensor]:
        """Returns all tensors by name, in model order, each to be read when it is asked for."""
        return {
            t.name: LazyTensor(t.shape, getattr(torch, t.dtype), partial(self.stored, t.name))
            for t in self.model.tensors
        }

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the tensors in the files."""
        return tuple(self._stored)

    def key(self, name: str) -> str | None:
        """Returns the name in the files of the tensor of that name; None where transformers puts it together from
        several.
        """
        info = self.model.tensor(name)
        return next((self._direct[n] for n in (info.name, *info.aliases) if n in self._direct), None)

    def _fresh(self, name: str) -> bool:
        """Returns True if the array of a tensor that was read is shared with nobody."""
        key = self.key(name)
        return key is not None and stored.is_gguf(self._stored[key].file)

    @cached_property
    def _loaded(self) -> Mapping[str, torch.Tensor]:
        dtypes = {getattr(torch, t.dtype) for t in self.model.tensors}
        dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
        state: Mapping[str, torch.Tensor] = reference.load_reference(self.model, dtype).state_dict()
        return state
