"""Rounding a layer's rows to whole numbers against its Hessian and the bits that they will take: Babai with a price.

As in `babai`, the columns of a row w are taken in order and each one's error is carried on, so that the error in the
metric M is sum_j d_j e_j^2. Here the numbers are unbounded, and steps are given: w^_ij = r_i c_j k_ij. For every weight
x = w_ij / (r_i c_j), errors carried on included, the k is taken that makes

    v_i u_j (x - k)^2 + price[class_ij][|k|]

least, among the nearest whole number, its neighbour towards 0, and 0: a Lagrangian, as in the rate-distortion optimised
quantization of video coders (Sullivan and Wiegand 1998, IEEE Signal Processing Magazine 15(6), section "Lagrangian").
The first of equals wins. Steps c_j = 1 / L_jj are the water-filling of WaterSIC (arXiv 2603.04956).

class_ij = row_classes[i] + column_classes[j] says which code table will write the weight. Magnitudes beyond a table
cost its last price and `STEEP` more for each one. Numbers are held to +-MOST, and what that cuts off is carried on too.

Sweeps of coordinate descent may follow: with all other numbers fixed, weight ij would be best at the x where the
gradient of its row's error vanishes, and its k is chosen again among the same three and the one it has; an error of one
step now counts row_weights[i] * descent_weights[j], with M_jj in the place of d_j. No sweep raises the sum of error and
price.

All arithmetic is float32 and no sum is reordered: native, reference, and any number of threads give the same bits.
Cost per row: n^2 / 2 multiply-adds; n^2 more for a gradient, if there are sweeps, and n for every number that changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import native, threads
from mediant.kernels.babai import MetricFactors

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

MOST = 32767
STEEP = np.float32(0.05)


@dataclass(frozen=True)
class Steps:
    """What is rounded to: the step of weight ij is rows[i] * columns[j], one float32 product.

    An error of one step in weight ij counts row_weights[i] * column_weights[j] where later columns make up for it, and
    row_weights[i] * descent_weights[j] where none do. All are float32; steps are positive.
    """

    rows: Floats
    columns: Floats
    row_weights: Floats
    column_weights: Floats
    descent_weights: Floats


@dataclass(frozen=True)
class Prices:
    """price[class][magnitude], float32 [classes, magnitudes], in the units of the error; classes of rows and columns.

    `row_classes` [rows] and `column_classes` [columns] are uint8; no sum of two of them reaches the number of classes.
    """

    table: Floats
    row_classes: Bytes
    column_classes: Bytes


def rate_babai(
    matrix: Floats, factored: MetricFactors, steps: Steps, prices: Prices, sweeps: int = 0
) -> NDArray[np.int16]:
    """Returns the whole numbers [rows, columns] of a finite float32 matrix [rows, columns].

    Raises:
        ValueError: the shapes do not fit, or there is a class without prices.
    """
    rows, columns = matrix.shape
    if factored.feedback.shape != (columns, columns) or (len(steps.rows), len(steps.columns)) != (rows, columns):
        raise ValueError(
            f"a matrix of {rows} rows and {columns} columns needs as many steps, and factors of its metric to match"
        )
    highest = int(prices.row_classes.max(initial=0)) + int(prices.column_classes.max(initial=0))
    if highest >= len(prices.table) or prices.table.shape[1] < 1:
        raise ValueError(f"there are prices for {len(prices.table)} classes, but a weight of the class {highest}")
    w = np.ascontiguousarray(matrix, np.float32)
    if native is None:
        return rate_babai_reference(w, factored, steps, prices, sweeps)
    numbers = np.empty((rows, columns), np.int16)
    native.rate_babai(
        w, factored.feedback, factored.metric, steps.rows, steps.columns, steps.row_weights, steps.column_weights,
        steps.descent_weights, np.ascontiguousarray(prices.table), prices.row_classes, prices.column_classes, sweeps,
        numbers, threads(),
    )  # fmt: skip
    return numbers


def rate_babai_reference(
    matrix: Floats, factored: MetricFactors, steps: Steps, prices: Prices, sweeps: int = 0
) -> NDArray[np.int16]:
    """`rate_babai` in NumPy, for checked arguments: vectorised over rows."""
    w = matrix.copy()
    numbers = np.empty(w.shape, np.int16)
    for j in range(w.shape[1]):
        step = steps.rows * steps.columns[j]
        chosen = _chosen(w[:, j] * (np.float32(1) / step), steps.row_weights * steps.column_weights[j], prices, j)
        numbers[:, j] = chosen
        w[:, j + 1 :] -= (w[:, j] - step * chosen)[:, None] * factored.feedback[j, j + 1 :]
    if sweeps:
        _descend(numbers, matrix, factored.metric, steps, prices, sweeps)
    return numbers


def _descend(
    numbers: NDArray[np.int16], matrix: Floats, metric: Floats, steps: Steps, prices: Prices, sweeps: int
) -> None:
    gradient = np.zeros_like(matrix)
    for j in range(matrix.shape[1]):
        step = steps.rows * steps.columns[j]
        gradient += (step * numbers[:, j] - matrix[:, j])[:, None] * metric[j]
    for j in np.tile(np.arange(matrix.shape[1]), sweeps):
        step, number = steps.rows * steps.columns[j], numbers[:, j].astype(np.float32)
        x = number - gradient[:, j] * (np.float32(1) / metric[j, j]) * (np.float32(1) / step)
        chosen = _chosen(x, steps.row_weights * steps.descent_weights[j], prices, j, number)
        numbers[:, j] = chosen
        gradient += (step * (chosen - number))[:, None] * metric[j]


def _chosen(x: Floats, weights: Floats, prices: Prices, j: int, present: Floats | None = None) -> Floats:
    """For each row the number that costs least at x [rows] in column j; the present one if none costs less."""
    rows = np.arange(len(x))
    nearest = np.clip(np.rint(x), np.float32(-MOST), np.float32(MOST))
    first = [] if present is None else [present]
    choices = np.stack([*first, nearest, nearest - np.sign(nearest), np.zeros_like(nearest)])
    table = prices.table[prices.row_classes + prices.column_classes[j]]
    costs = np.stack([weights * ((x - k) * (x - k)) + _price(table, rows, np.abs(k)) for k in choices])
    chosen: Floats = choices[np.argmin(costs, axis=0), rows]
    return chosen


def _price(table: Floats, rows: NDArray[np.int64], magnitude: Floats) -> Floats:
    last = np.float32(table.shape[1] - 1)
    within = np.minimum(magnitude, last)
    beyond: Floats = table[rows, within.astype(np.int64)] + (magnitude - within) * STEEP
    return beyond
