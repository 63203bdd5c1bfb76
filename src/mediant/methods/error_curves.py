"""Measured error curves: the loss predicted for a matrix at every depth on offer.

The loss is 1/2 sum_ij g_i^2 h_j (w_ij - w^_ij)^2, the expected rise of KL in nats per token (statistics/sensitivity),
with w^ from the very quantizer that will be used, on evenly strided rows: the curve is measured, not assumed to fall
by four per bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mediant.methods.quantize import quantize
from mediant.values import LayerStatistics, Run, TensorPlan

# Enough weights that the estimated error is good to about one percent.
SAMPLE = 1 << 15


def error_curve(
    matrix: NDArray[np.float32], plan: TensorPlan, statistics: LayerStatistics, depths: Sequence[int]
) -> dict[int, float]:
    """Predicted loss of a matrix [rows, columns] at each depth, in nats per token."""
    rows, columns = matrix.shape
    chosen = np.unique(np.linspace(0, rows - 1, min(rows, max(8, SAMPLE // columns))).round().astype(int))
    sample = np.ascontiguousarray(matrix[chosen])
    local = rows_of(statistics, chosen)
    curve = {}
    for bits in depths:
        one = dataclasses.replace(plan, runs=(Run(len(chosen), bits),))
        error = np.square(sample.astype(np.float64) - quantize(sample, one, local).matrix)
        curve[bits] = predicted_loss(error, local) * rows / len(chosen)
    return curve


def rows_of(statistics: LayerStatistics, rows: NDArray[np.int64] | slice) -> LayerStatistics:
    """The statistics of some rows."""
    head = statistics.head_fisher
    return dataclasses.replace(
        statistics,
        output_fisher=statistics.output_fisher[rows],
        head_fisher=None if head is None else head[rows],
    )


def neutral(matrix: NDArray[np.float32], zeroing_loss: float = 1.0) -> LayerStatistics:
    """Statistics for a matrix that calibration did not reach: all weights count alike.

    Setting the whole matrix to zero is predicted to lose `zeroing_loss` nats per token.
    """
    energy = float(np.square(matrix, dtype=np.float64).sum())
    rows, columns = matrix.shape
    fisher = np.full(rows, 2 * zeroing_loss / energy if energy else 0.0)
    return LayerStatistics(np.ones(columns), np.zeros(columns), fisher, tokens=0)


def predicted_loss(error: NDArray[np.float64], statistics: LayerStatistics) -> float:
    """Loss in nats per token of squared errors [rows, columns]."""
    # Plain sums, not BLAS, whose order of additions depends on the number of threads.
    total = (statistics.output_fisher * (error * statistics.input_square).sum(axis=1)).sum()
    if statistics.head_square is not None and statistics.head_fisher is not None:
        total += (statistics.head_fisher * (error * statistics.head_square).sum(axis=1)).sum()
    return 0.5 * float(total)
