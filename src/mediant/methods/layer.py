"""A matrix as quantization sees it: in its basis, with the metric that says what its errors cost.

The predicted loss of an error matrix E = W - W^ is 1/2 sum_t sum_i f_ti E_i C_t E_i^T over one or two terms t, each
with row weights f_t and a metric C_t of the columns: Fisher times Hessian for a linear layer; for an embedding its
frequency times the Fisher of its output, and, where it is also the head, the Fisher of the logits times the head's
Hessian. C_t is a vector where only its diagonal is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from mediant.kernels.babai import MetricFactors
from mediant.kernels.rotation import rotate, rotate_metric
from mediant.statistics.column_order import NATURAL, column_order
from mediant.statistics.metric_factors import damped, factorize
from mediant.values import Certificate, LayerStatistics

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Rows = NDArray[np.int64] | slice

# Weights whose loss is computed at once: bounds the memory of float64 copies.
BLOCK = 1 << 20


@dataclass(frozen=True)
class Term:
    """Row weights f [rows] and a metric C of the columns, [columns, columns] or its diagonal [columns]."""

    rows: Doubles
    columns: Doubles

    def losses(self, error: Doubles) -> Doubles:
        """1/2 f_i E_i C E_i^T for every row of [rows, columns]."""
        if self.columns.ndim == 1:
            through = error * self.columns
        else:
            through = (torch.from_numpy(error) @ torch.from_numpy(self.columns)).numpy()
        losses: Doubles = 0.5 * self.rows * (through * error).sum(axis=1)
        return losses

    def rotated(self, seed: int) -> Term:
        """Returns the term of a matrix whose columns are rotated; one that counts all columns alike stays as it is."""
        alike = self.columns.ndim == 1 and bool((self.columns == self.columns[:1]).all())
        return self if alike else Term(self.rows, rotate_metric(self.full(), seed))

    def full(self) -> Doubles:
        """C as a matrix."""
        return np.diag(self.columns) if self.columns.ndim == 1 else self.columns


@dataclass(frozen=True)
class Layer:
    """A matrix [rows, columns] and its loss, both in the basis of the plan; `statistics` are in the model's own."""

    matrix: Floats
    terms: tuple[Term, ...]
    statistics: LayerStatistics | None = None
    shared: Layer | None = None

    def rows(self, where: Rows) -> Layer:
        """Returns some of the rows, with the same factors of the metric."""
        local = None if self.statistics is None else rows_of(self.statistics, where)
        terms = tuple(Term(t.rows[where], t.columns) for t in self.terms)
        return replace(
            self, matrix=np.ascontiguousarray(self.matrix[where]), terms=terms, statistics=local, shared=self
        )

    @property
    def whole(self) -> Layer:
        """The layer that these are some rows of; itself where it is all."""
        return self if self.shared is None else self.shared.whole

    def scaled(self, factors: Floats) -> Layer:
        """Returns the layer of the matrix whose columns are divided by `factors` [columns], all positive."""
        c = factors.astype(np.float64)
        terms = tuple(Term(t.rows, t.columns * (c * c if t.columns.ndim == 1 else np.outer(c, c))) for t in self.terms)
        local = None if self.statistics is None else scaled_statistics(self.statistics, c)
        return Layer(np.ascontiguousarray(self.matrix / factors), terms, local)

    def metric(self) -> Doubles:
        """Returns all terms together, weighted by their rows: [columns, columns], or its diagonal if all that is
        known.
        """
        totals = [float(t.rows.sum()) * t.columns for t in self.terms]
        if all(t.ndim == 1 for t in totals):
            return np.asarray(sum(totals))
        return np.asarray(sum(np.diag(t) if t.ndim == 1 else t for t in totals))

    def certified(self, inner: Certificate, approximation: Floats) -> Certificate:
        """Returns the certificate of an approximation that was found in another form of the layer, with its errors in
        this.

        No bound is known of it.
        """
        return replace(
            inner,
            relative_error=self.relative_error(approximation),
            weighted_error=self.weighted_error(approximation),
            worst_error=None,
            expected_error=None,
        )

    def loss(self, approximation: Floats) -> float:
        """Returns the predicted loss, in nats per token, of taking `approximation` for the matrix."""
        total = 0.0
        for where in self._blocks():
            error = self.matrix[where].astype(np.float64) - approximation[where]
            total += float(sum(Term(t.rows[where], t.columns).losses(error).sum() for t in self.terms))
        return total

    def relative_error(self, approximation: Floats) -> float:
        """Returns the squared error of taking `approximation` for the matrix, as a share of the matrix's own square."""
        error = energy = 0.0
        for where in self._blocks():
            matrix = self.matrix[where].astype(np.float64)
            energy += float(np.square(matrix).sum())
            error += float(np.square(matrix - approximation[where]).sum())
        return error / energy if energy else 0.0

    def weighted_error(self, approximation: Floats) -> float:
        """Returns the predicted loss as a share of that of setting the matrix to zero."""
        return self.loss(approximation) / self.zeroing if self.zeroing else 0.0

    def _blocks(self) -> Iterator[slice]:
        step = max(1, BLOCK // max(1, self.matrix.shape[1]))
        yield from (slice(begin, begin + step) for begin in range(0, len(self.matrix), step))

    @cached_property
    def zeroing(self) -> float:
        """Predicted loss of setting the matrix to zero."""
        return self.loss(np.zeros_like(self.matrix))

    def joint(self) -> Term:
        """Returns all terms as one: exact where there is one, else with the mean metric and the mean shares of rows."""
        columns = sum(float(t.rows.sum()) * (t.columns if self._diagonal else t.full()) for t in self.terms)
        sizes = [float((t.columns if t.columns.ndim == 1 else np.diag(t.columns)).sum()) for t in self.terms]
        rows = sum(size * t.rows for size, t in zip(sizes, self.terms, strict=True))
        return Term(np.asarray(rows), np.asarray(columns))

    @property
    def _diagonal(self) -> bool:
        return all(t.columns.ndim == 1 for t in self.terms)

    def cuts(self) -> list[int]:
        """Returns rows at which another metric begins: none, but in a stack of experts (methods/stack.py)."""
        return []

    def factored(self, damping: float, order: str = NATURAL, group: int = 1) -> MetricFactors:
        """Factors the metric of all terms, weighted by their rows, its columns in an order that keeps groups."""
        if self.shared is not None:
            return self.shared.factored(damping, order, group)
        key = damping, order, group if order != NATURAL else 1
        if key not in self._factored:
            metric = damped(np.asarray(sum(float(term.rows.sum()) * term.full() for term in self.terms)), damping)
            self._factored[key] = factorize(metric, column_order(metric, group, order))
        return self._factored[key]

    @cached_property
    def _factored(self) -> dict[tuple[float, str, int], MetricFactors]:
        return {}


def prepare(
    matrix: Floats, rotation: int | None, statistics: LayerStatistics | None, hessian: Doubles | None = None
) -> Layer:
    """Returns the layer of a matrix [rows, columns] in the basis in which it will be rounded.

    Args:
        matrix: in the model's own basis.
        rotation: seed of the rotation of its columns (kernels/rotation.py), or None.
        statistics: diagonal sensitivities; None counts every weight alike.
        hessian: E[x x^T] of the inputs (of the head's, for a tied embedding), or None to go by its diagonal.
    """
    s = neutral(matrix) if statistics is None else statistics
    if s.head_fisher is not None and s.head_square is not None:
        head = Term(s.head_fisher, s.head_square if hessian is None else hessian)
        terms: tuple[Term, ...] = (Term(s.output_fisher, s.input_square), head)
    else:
        terms = (Term(s.output_fisher, s.input_square if hessian is None else hessian),)
    return in_basis(Layer(matrix, terms, statistics), rotation)


def in_basis(layer: Layer, seed: int | None) -> Layer:
    """Returns a layer in the model's own basis with its columns rotated by a seed; as it is without one."""
    if seed is None:
        return layer
    # A rotation mixes all columns: no diagonal sensitivity is left to go by.
    return Layer(rotate(layer.matrix, seed), tuple(t.rotated(seed) for t in layer.terms))


def scaled_statistics(statistics: LayerStatistics, factors: Doubles) -> LayerStatistics:
    """Returns the statistics of inputs [columns] that are multiplied by `factors`."""
    head = statistics.head_square
    return replace(
        statistics,
        input_square=statistics.input_square * factors**2,
        input_mean=statistics.input_mean * factors,
        head_square=None if head is None else head * factors**2,
    )


def rows_of(statistics: LayerStatistics, rows: Rows) -> LayerStatistics:
    """Returns the statistics of some rows."""
    head = statistics.head_fisher
    return replace(
        statistics,
        output_fisher=statistics.output_fisher[rows],
        head_fisher=None if head is None else head[rows],
    )


def neutral(matrix: Floats, zeroing_loss: float = 1.0) -> LayerStatistics:
    """Returns statistics for a matrix that calibration did not reach: all weights count alike.

    Setting the whole matrix to zero is predicted to lose `zeroing_loss` nats per token.
    """
    energy = float(np.square(matrix, dtype=np.float64).sum())
    rows, columns = matrix.shape
    fisher = np.full(rows, 2 * zeroing_loss / energy if energy else 0.0)
    return LayerStatistics(np.ones(columns), np.zeros(columns), fisher, tokens=0)
