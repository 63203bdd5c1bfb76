"""Outlier columns: the few columns whose rounding would cost most stay as float16 beside the codes of the others.

Minimises tr(E M E^T) over the codes of the other columns and, exactly, over the outliers' values: for given errors E of
the others the best values are W_o + E M_qo M_oo^-1, and what is left is E in the metric M_qq - M_qo M_oo^-1 M_oq, the
Schur complement, in which the others are therefore rounded. With a diagonal metric the outliers keep their values.

Args: a layer [rows, columns] and the indices of its outliers, ascending. Values are float16 in the weights' unit.

Source: Lee et al. 2023 (arXiv 2306.02272), section 3: the sensitivity of a column is M_jj ||dW_j||^2 with dW the error
of rounding to nearest. Deviations: (1) the same number of outliers in every matrix; (2) outliers' values are not those
of the model but the best beside the rounded others, which the error feedback of GPTQ gives too, if they come last;
(3) codes of the outliers are stored all the same, as zeros, so that the others lie where they would without.

Cost: one rounding to nearest, and k^3 + columns^2 k for k outliers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from mediant.methods.layer import Layer, Term
from mediant.statistics.metric_factors import damped

REFERENCES = (
    "Lee et al. 2023, OWQ: Outlier-Aware Weight Quantization for Efficient Fine-Tuning and Inference of Large "
    "Language Models, arXiv:2306.02272",
)
NEEDS: tuple[str, ...] = ()

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]

# As in GPTQ; the outliers' own block of the metric must have an inverse.
DAMPING = 0.01
MOST = float(np.finfo(np.float16).max)


def most_sensitive(layer: Layer, rounded: Floats, count: int) -> Indices:
    """Returns the `count` columns of which the error against `rounded` costs most, ascending; of equal ones the
    first.
    """
    metric = layer.metric()
    diagonal = metric if metric.ndim == 1 else np.diag(metric)
    cost = diagonal * np.square(layer.matrix.astype(np.float64) - rounded).sum(axis=0)
    return np.sort(np.argsort(-cost, kind="stable")[:count]).astype(np.int64)


def mask(kept: Indices, columns: int) -> NDArray[np.bool_]:
    """Returns True at the outliers, [columns]."""
    found = np.zeros(columns, np.bool_)
    found[kept] = True
    return found


def without(layer: Layer, kept: Indices) -> Layer:
    """Returns the layer of the other columns: outliers are 0 and do not count, and the others go by the Schur
    complement.
    """
    matrix = layer.matrix.copy()
    matrix[:, kept] = 0
    rows = np.full(len(matrix), 1 / len(matrix))
    statistics = layer.statistics
    if statistics is not None:
        square, head = statistics.input_square.copy(), statistics.head_square
        square[kept] = 0
        if head is not None:
            head = head.copy()
            head[kept] = 0
        statistics = replace(statistics, input_square=square, head_square=head)
    return Layer(matrix, (Term(rows, _marginal(layer.metric(), kept)),), statistics)


def values(layer: Layer, kept: Indices, rounded: Floats) -> NDArray[np.float16]:
    """Returns the outliers' best values [rows, outliers] beside the rounded others; what `rounded` has at them is
    ignored.
    """
    error = layer.matrix.astype(np.float64) - rounded
    error[:, kept] = 0
    best = layer.matrix[:, kept] + _product(error, _feedback(layer.metric(), kept))
    return np.clip(best, -MOST, MOST).astype(np.float16)


def _feedback(metric: Doubles, kept: Indices) -> Doubles:
    """M_qo M_oo^-1, [columns, outliers]."""
    if metric.ndim == 1:
        return np.zeros((len(metric), len(kept)))
    m = damped(metric, DAMPING)
    return np.asarray(np.linalg.solve(m[np.ix_(kept, kept)], m[kept]).T)


def _product(a: Doubles, b: Doubles) -> Doubles:
    """Returns a b by PyTorch, which computes it alike for any number of threads."""
    return np.asarray((torch.from_numpy(a) @ torch.from_numpy(np.ascontiguousarray(b))).numpy())


def _marginal(metric: Doubles, kept: Indices) -> Doubles:
    """Returns the metric that is left of the others when the outliers take the values best for them; 0 at the
    outliers.
    """
    if metric.ndim == 1:
        left = metric.copy()
        left[kept] = 0
        return left
    left = metric - _product(_feedback(metric, kept), damped(metric, DAMPING)[kept])
    left[kept] = left[:, kept] = 0
    # Of a symmetric matrix, rounding makes one that is not quite.
    return np.asarray((left + left.T) / 2)
