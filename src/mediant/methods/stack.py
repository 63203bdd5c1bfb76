"""Matrices of several experts under one another, each with a metric of its own.

The predicted loss of a stack is the sum of its experts', each with its own row weights and Hessian. Whatever works row
by row (`Layer.rows`, rounding, losses) goes by the expert that the rows belong to. `terms`, and so `Layer.factored` of
several experts together, hold row weights and the mean of the experts' diagonals, for methods that take a stack for
one matrix.

An expert's factors are computed when its rows are asked for, and kept until another's are: memory holds one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from mediant.kernels.rotation import rotate_metric
from mediant.methods.layer import Doubles, Floats, Layer, Rows, Term, prepare
from mediant.values import LayerStatistics

Hessian = Doubles | Sequence[Doubles]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Stack(Layer):
    """Rows of several experts: `owner` and `place` [rows] say whose and which; `expert` gives one's whole layer."""

    owner: Places = field(default_factory=lambda: np.empty(0, np.int64))
    place: Places = field(default_factory=lambda: np.empty(0, np.int64))
    expert: Callable[[int], Layer] = field(kw_only=True)

    def rows(self, where: Rows) -> Layer:
        """Returns some of the rows: of one expert with its own metric, or of several."""
        owner, place = self.owner[where], self.place[where]
        if len(owner) and (owner == owner[0]).all():
            return self.expert(int(owner[0])).rows(place)
        return replace(cast(Stack, super().rows(where)), owner=owner, place=place)

    def loss(self, approximation: Floats) -> float:
        """Returns the predicted loss, in nats per token, of taking `approximation` for the matrix."""
        total = 0.0
        for number in np.unique(self.owner):
            mine = np.flatnonzero(self.owner == number)
            total += self.expert(int(number)).rows(self.place[mine]).loss(approximation[mine])
        return total

    def cuts(self) -> list[int]:
        """Returns rows at which another expert begins."""
        return (1 + np.flatnonzero(np.diff(self.owner))).tolist()


def prepare_any(
    matrix: Floats, rotation: int | None, statistics: LayerStatistics | None, hessian: Hessian | None = None
) -> Layer:
    """`prepare` for a matrix, or for a stack of experts whose statistics are by expert.

    Args:
        matrix: in the model's own basis [rows, columns]; those of a stack lie under one another.
        rotation: seed of the rotation of the columns, or None.
        statistics: of a stack, inputs are [experts, columns].
        hessian: of a stack, one for each expert.
    """
    if statistics is None or statistics.input_square.ndim == 1:
        return prepare(matrix, rotation, statistics, cast(Doubles | None, hessian))
    return _stack(matrix, rotation, statistics, cast(Sequence[Doubles] | None, hessian))


def _stack(
    matrix: Floats, rotation: int | None, statistics: LayerStatistics, hessians: Sequence[Doubles] | None
) -> Stack:
    s, experts = statistics, len(statistics.input_square)
    size = len(matrix) // experts
    together = replace(s, input_square=s.input_square.mean(0), input_mean=s.input_mean.mean(0))
    base = prepare(matrix, rotation, together)
    kept: dict[int, Layer] = {}

    def expert(number: int) -> Layer:
        if number not in kept:
            kept.clear()
            rows = slice(number * size, (number + 1) * size)
            metric = s.input_square[number] if hessians is None else hessians[number]
            if rotation is not None:
                metric = rotate_metric(np.diag(metric) if metric.ndim == 1 else metric, rotation)
            own = None if base.statistics is None else s.expert(number)
            kept[number] = Layer(base.matrix[rows], (Term(s.output_fisher[rows], metric),), own)
        return kept[number]

    owner, place = np.divmod(np.arange(len(matrix)), size)
    return Stack(base.matrix, base.terms, base.statistics, None, owner, place, expert=expert)
