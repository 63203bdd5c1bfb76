"""The tensors that bytes are spent on: as matrices, with their sensitivities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mediant.methods.layer import neutral
from mediant.methods.stack import prepare_any
from mediant.models.matrix_form import to_matrix
from mediant.models.weights import WeightReader
from mediant.values import Array, LayerStatistics, Model, Statistics, TensorInfo

QUANTIZED_ROLES = ("linear", "embedding", "head", "expert")
# Below this many weights a matrix is not worth its own scales and table entries.
SMALLEST_MATRIX = 1024


def quantizable(model: Model) -> list[TensorInfo]:
    """Returns the tensors that quantization touches, in model order; all others are cast."""
    return [t for t in model.tensors if t.role in QUANTIZED_ROLES and t.layout != "none" and t.size >= SMALLEST_MATRIX]


@dataclass(frozen=True)
class Matrix:
    """A tensor to be quantized as a matrix, and its sensitivities; those calibration did not see are neutral.

    `zeroing` is what setting a matrix that calibration did not see to zero is taken to lose, in nats per token: the
    median of the others; 1 for a matrix that it saw.
    """

    info: TensorInfo
    weights: WeightReader
    statistics: LayerStatistics
    zeroing: float = 1.0

    @cached_property
    def values(self) -> Array:
        """The matrix itself, read by the thread that asks first."""
        return to_matrix(self.weights.read(self.info.name), self.info)


def matrices(model: Model, statistics: Statistics | None, weights: WeightReader) -> Iterator[Matrix]:
    """Yields the matrices that quantization touches, in model order, but first those that calibration saw."""
    seen = {} if statistics is None else statistics.layers
    infos = sorted(quantizable(model), key=lambda info: info.name not in seen)
    losses, all_seen = [], all(info.name in seen for info in infos)
    for info in infos:
        if info.name in seen:
            matrix = Matrix(info, weights, seen[info.name])
            if not all_seen:
                losses.append(prepare_any(matrix.values, None, matrix.statistics).zeroing)
            yield Matrix(info, weights, seen[info.name])
        else:
            zeroing = float(np.median(losses)) if losses else 1.0
            values = to_matrix(weights.read(info.name), info)
            yield Matrix(info, weights, neutral(values, zeroing), zeroing)
