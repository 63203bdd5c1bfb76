"""Which tensors of a model have weights beyond the range of a number type."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from mediant.models.weights import WeightReader
from mediant.values import Model

# float32 holds whatever a model holds, and bfloat16 has its range.
LARGEST = {"float16": float(np.finfo(np.float16).max)}


@dataclass(frozen=True)
class _Tensors:
    """Some tensors of a model, which its fingerprint stands for."""

    fingerprint: str
    names: frozenset[str]
    model: Model = field(compare=False)


def beyond(model: Model, names: Iterable[str], dtype: str) -> frozenset[str]:
    """Returns the names of those tensors that hold a weight larger than the type can; read once for each model.

    Raises:
        ModelError: a weight is not finite.
    """
    return _beyond(_Tensors(model.fingerprint, frozenset(names), model), dtype) if dtype in LARGEST else frozenset()


@lru_cache(maxsize=8)
def _beyond(tensors: _Tensors, dtype: str) -> frozenset[str]:
    with WeightReader(tensors.model) as weights:
        return frozenset(n for n in tensors.names if np.abs(weights.read(n)).max(initial=0) > LARGEST[dtype])
