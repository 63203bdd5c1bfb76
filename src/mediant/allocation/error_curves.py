"""Measured error curves: the loss predicted for a matrix at every bit width on offer.

The loss is that of methods/layer.py, the expected rise of KL in nats per token, with the approximation from the very
quantizer that will be used, on evenly strided rows: the curve is measured, not assumed to fall by four per bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mediant.forms import Form
from mediant.forms.encoding import trial_losses
from mediant.methods.layer import Layer
from mediant.values import RowSpan

# Enough weights that the estimated error is good to about one percent.
SAMPLE = 1 << 15
FEWEST_ROWS = 64


def error_curve(layer: Layer, plan: Form, bit_widths: Sequence[int]) -> dict[int, float]:
    """Returns the predicted loss of a layer's matrix [rows, columns] at each bit width, in nats per token."""
    rows, columns = layer.matrix.shape
    sample = layer.rows(np.unique(np.linspace(0, rows - 1, sample_rows(rows, columns)).round().astype(int)))
    taken = len(sample.matrix)
    losses = trial_losses(sample, {bits: plan.with_runs((RowSpan(taken, bits),)) for bits in bit_widths})
    return {bits: loss * rows / taken for bits, loss in losses.items()}


def sample_rows(rows: int, columns: int) -> int:
    """Returns the number of rows of a matrix that are tried."""
    return min(rows, max(FEWEST_ROWS, SAMPLE // columns))
