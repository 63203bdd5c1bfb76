"""One denominator for the whole model: whole multiples of steps that follow from a single number, entropy-coded.

Minimises, over whole numbers k_ij for a matrix W [rows, columns], the predicted loss (methods/layer.py) plus a price
for every bit. With g_i^2 the sensitivity of row i, L the Cholesky factor of the damped metric and Delta the `step` of
the plan, weight ij becomes a multiple of

    s_ij = Delta / (g_i L_jj),

so that rounding costs Delta^2 / 12 in every weight of every layer, and a bit buys as much everywhere: the water-filling
of WaterSIC (arXiv 2603.04956), over rows and layers too. The one Delta sets the size of the model. Numbers are found by
Babai with a price (kernels/rate_babai.py) and written in classes of alike spread (entropy_codes.py).

Deviations from WaterSIC: 1. Rows have steps of their own. 2. A price per bit, the slope of the rate-distortion curve at
high rate, enters each choice; WaterSIC rounds to the nearest. 3. One least-squares scale for every row afterwards, in
the metric, as numbers that are pulled towards 0 shrink a row.

Use it for transfer and storage; codes of fixed length (forms/quantize) can stay packed in memory. Rotations do not
help: they level the differences between inputs that this method lives on.

Cost: rows * columns^2 / 2 multiply-adds for rounding, about four times that for scales and certificate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mediant.forms.encoding import Encoded
from mediant.forms.entropy_coded import entropy_codes
from mediant.forms.entropy_coded.coded_matrix import CLASSES, COLUMN_FACTORS, STEPS, CodedMatrix, SideInformation
from mediant.forms.entropy_coded.form import EntropyCoded
from mediant.kernels.babai import MetricFactors
from mediant.kernels.bfloat16 import from_float32, to_float32
from mediant.kernels.rate_babai import Prices, Steps, rate_babai
from mediant.methods.layer import Layer
from mediant.values import Certificate, TensorInfo

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bytes = NDArray[np.uint8]

# Rows that prices are learned from, and how often.
PRICED_ROWS = 128
PRICED_TIMES = 2
# Of coordinate descent behind Babai.
SWEEPS = 4
# Classes to an octave of spread.
CLASS_STEPS = 4
# Numbers that a class is taken to have shown before any were counted, spread as a bell curve and as a Laplace one.
PRIOR = 30.0
LARGEST_BFLOAT16 = 3.3e38


def encode(layer: Layer, plan: EntropyCoded, info: TensorInfo | None = None, hint: object = None) -> Encoded:
    """Returns the coded matrix of a layer."""
    coded = _coded(layer, plan)
    matrix = coded.matrix()
    return Encoded(coded.parts(), matrix, _certificate(layer, matrix))


@dataclass(frozen=True)
class Rate:
    """What a matrix takes and loses at one step: bits of its numbers, and nats per token."""

    bits: float
    loss: float


def rate(layer: Layer, plan: EntropyCoded) -> Rate:
    """Returns the rate of a layer, or of a sample of its rows (`Layer.rows`); side information is not counted."""
    coded = _coded(layer, plan)
    counts = entropy_codes.count(coded.numbers, coded.side.classes)
    return Rate(sum(map(_entropy, counts)), layer.loss(coded.matrix()))


def spread(layer: Layer, plan: EntropyCoded) -> float:
    """Returns the root mean square of a layer's numbers under a plan, before any is rounded."""
    steps, _ = _steps(layer, layer.factored(plan.damping), plan)
    return float(np.sqrt(np.square(layer.matrix / (steps.rows[:, None] * steps.columns), dtype=np.float64).mean()))


def _coded(layer: Layer, plan: EntropyCoded) -> CodedMatrix:
    factored = layer.factored(plan.damping)
    steps, column_scales = _steps(layer, factored, plan)
    classes = _Classes.of(layer.matrix, steps)
    numbers = _rounded(layer, factored, steps, classes, plan.price)
    row_scales = _fitted(layer.matrix, factored, steps, numbers)
    return CodedMatrix(numbers, SideInformation(row_scales, column_scales, classes.rows, classes.columns))


def _entropy(counts: NDArray[np.int64]) -> float:
    """Returns the bits of the magnitudes that were counted, by their own frequencies, and of the signs."""
    seen = counts[counts > 0].astype(np.float64)
    return float((seen * np.log2(seen.sum() / seen)).sum() + counts[1:].sum()) if seen.size else 0.0


def _steps(layer: Layer, factored: MetricFactors, plan: EntropyCoded) -> tuple[Steps, Bytes]:
    """Steps as they are stored, and the codes of the columns' part of them."""
    lengths = np.sqrt(factored.conditional.astype(np.float64))
    least = float(lengths.min())
    codes = np.minimum(np.rint(STEPS * np.log2(lengths / least)), len(COLUMN_FACTORS) - 1).astype(np.uint8)
    columns = COLUMN_FACTORS[codes]
    g = np.sqrt(row_shares(layer, plan.floor))
    rows = to_float32(from_float32(np.minimum(plan.step / (g * least), LARGEST_BFLOAT16).astype(np.float32)))
    return Steps(
        rows,
        columns,
        np.square(g * rows * least / plan.step).astype(np.float32),
        np.square(lengths * columns / least).astype(np.float32),
        (factored.metric.diagonal() * np.square(columns / least)).astype(np.float32),
    ), codes


def row_shares(layer: Layer, floor: float) -> Doubles:
    """g_i^2 [rows]: the share of each row in the factored metric, at least `floor` times the mean share.

    With several terms, a row's share is that of the loss if every column erred by its step.
    """
    whole = layer.shared or layer
    total = np.zeros(len(layer.matrix))
    everything = 0.0
    for term, all_rows in zip(layer.terms, whole.terms, strict=True):
        size = float((term.columns if term.columns.ndim == 1 else np.diag(term.columns)).sum())
        total += term.rows * size
        everything += float(all_rows.rows.sum()) * size
    mean = 1 / len(whole.matrix)
    shares = total / everything if everything > 0 else np.full(len(total), mean)
    return np.maximum(shares, floor * mean)


@dataclass(frozen=True)
class _Classes:
    """Classes of rows and columns: those of a weight add up to the spread of its number, in quarters of an octave."""

    rows: Bytes
    columns: Bytes
    lowest: int

    @property
    def count(self) -> int:
        return int(self.rows.max()) + int(self.columns.max()) + 1

    @classmethod
    def of(cls, matrix: Floats, steps: Steps) -> _Classes:
        """Returns a spread for each row times one for each column, by two rounds of alternating means."""
        energy = np.square(matrix / (steps.rows[:, None] * steps.columns), dtype=np.float64)
        rows = np.maximum(energy.mean(axis=1), 1e-12)
        columns = np.maximum((energy / rows[:, None]).mean(axis=0), 1e-12)
        rows = np.maximum((energy / columns).mean(axis=1), 1e-12)
        of_rows, lowest_row = _levels(rows)
        of_columns, lowest_column = _levels(columns)
        return cls(of_rows, of_columns, lowest_row + lowest_column)

    def spreads(self) -> Doubles:
        """Returns the standard deviation of the numbers of each class, roughly."""
        spreads: Doubles = np.exp2((self.lowest + np.arange(self.count)) / CLASS_STEPS)
        return spreads


def _levels(energy: Doubles) -> tuple[Bytes, int]:
    """Quarters of an octave of amplitude above the lowest, which is not far below the highest."""
    levels = np.rint(CLASS_STEPS * 0.5 * np.log2(energy)).astype(np.int64)
    lowest = max(int(levels.min()), int(levels.max()) - CLASSES + 1)
    return np.maximum(levels - lowest, 0).astype(np.uint8), lowest


def _rounded(layer: Layer, factored: MetricFactors, steps: Steps, classes: _Classes, price: float) -> NDArray[np.int16]:
    """Numbers at prices learned from some of the rows, first rounded without any."""
    rows = len(layer.matrix)
    some = np.unique(np.linspace(0, rows - 1, min(rows, PRICED_ROWS)).round().astype(np.int64))
    few = _Classes(classes.rows[some], classes.columns, classes.lowest)
    few_steps = replace(steps, rows=steps.rows[some], row_weights=steps.row_weights[some])
    table = np.zeros((classes.count, 1), np.float32)
    for _ in range(PRICED_TIMES):
        found = rate_babai(layer.matrix[some], factored, few_steps, Prices(table, few.rows, few.columns), SWEEPS)
        table = _price_table(_counts(found, few), classes, price)
    return rate_babai(layer.matrix, factored, steps, Prices(table, classes.rows, classes.columns), SWEEPS)


def _counts(numbers: NDArray[np.int16], classes: _Classes) -> NDArray[np.int64]:
    return entropy_codes.count(numbers, classes.rows[:, None] + classes.columns)


def _price_table(counts: NDArray[np.int64], classes: _Classes, price: float) -> Floats:
    """Price * bits of every magnitude in every class, [classes, magnitudes]."""
    magnitudes = counts.shape[1] + 1
    prior = np.array([_shares(spread, magnitudes) for spread in classes.spreads()])
    seen = np.zeros_like(prior)
    seen[: len(counts), : counts.shape[1]] = counts
    shares = (seen + PRIOR * prior) / (seen.sum(axis=1, keepdims=True) + PRIOR)
    bits = (np.arange(magnitudes) > 0) - np.log2(shares)
    table: Floats = (price * bits).astype(np.float32)
    return table


def _shares(spread: float, magnitudes: int) -> Doubles:
    """Probabilities of magnitudes: half a bell curve, half a Laplace one, both of this standard deviation."""
    edges = (np.arange(magnitudes) + 0.5) / spread
    bell = torch.special.erf(torch.from_numpy(edges / math.sqrt(2))).numpy()
    laplace = -np.expm1(-math.sqrt(2) * edges)
    shares = np.diff(0.5 * (bell + laplace), prepend=0) + 1e-9
    return np.asarray(shares / shares.sum())


def _fitted(matrix: Floats, factored: MetricFactors, steps: Steps, numbers: NDArray[np.int16]) -> Floats:
    """Returns the row scales that are best for the numbers in the metric M: w M v^T / v M v^T, v = c k; bfloat16 in
    float32.
    """
    v = numbers * steps.columns
    through = (torch.from_numpy(v) @ torch.from_numpy(factored.metric)).numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        fitted = (matrix * through).sum(axis=1, dtype=np.float64) / (v * through).sum(axis=1, dtype=np.float64)
    usable = (fitted > 0.5 * steps.rows) & (fitted < 2.0 * steps.rows)
    return to_float32(from_float32(np.where(usable, fitted, steps.rows).astype(np.float32)))


def _certificate(layer: Layer, matrix: Floats) -> Certificate:
    return Certificate(
        relative_error=layer.relative_error(matrix),
        weighted_error=layer.weighted_error(matrix),
        bound=0.5,
        clipped=0.0,
    )
