"""Measured error curves: the loss predicted for a matrix at every depth on offer.

The loss is that of methods/layer.py, the expected rise of KL in nats per token, with the approximation from the very
quantizer that will be used, on evenly strided rows: the curve is measured, not assumed to fall by four per bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mediant.methods.layer import Layer
from mediant.methods.quantize import quantize
from mediant.methods.sparse import sparse_at_depths
from mediant.values import Run, TensorPlan

# Enough weights that the estimated error is good to about one percent.
SAMPLE = 1 << 15
FEWEST_ROWS = 64


def error_curve(layer: Layer, plan: TensorPlan, depths: Sequence[int]) -> dict[int, float]:
    """Predicted loss of a layer's matrix [rows, columns] at each depth, in nats per token."""
    rows, columns = layer.matrix.shape
    count = min(rows, max(FEWEST_ROWS, SAMPLE // columns))
    sample = layer.rows(np.unique(np.linspace(0, rows - 1, count).round().astype(int)))
    taken = len(sample.matrix)
    planned = {bits: dataclasses.replace(plan, runs=(Run(taken, bits),)) for bits in depths}
    if plan.method == "sparse":
        found = sparse_at_depths(sample, planned)
    else:
        found = {bits: quantize(sample, given).matrix for bits, given in planned.items()}
    return {bits: sample.loss(matrix) * rows / taken for bits, matrix in found.items()}
