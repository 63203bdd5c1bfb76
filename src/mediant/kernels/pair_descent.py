"""Coordinate descent in pairs: as `descent`, but two columns at a time take the best of 16 points.

With r = (w^ - w) M, moving the columns 1 and 2 of a pair by (x, y) changes the error by

    x (2 r_1 + M_11 x) + y (2 r_2 + M_22 y) + 2 M_12 x y.

A pair takes the point for which this is least, the first of equals, if it is below 0; a single one of the first four.

All arithmetic is float32 and no sum is reordered: native, reference, and any number of threads give the same bits. Cost
per row: n^2 multiply-adds for the start, and 2 n for every pair that changes.
"""

from __future__ import annotations

import numpy as np

from mediant.kernels import native, threads
from mediant.kernels.babai import Floats
from mediant.kernels.descent import Bytes
from mediant.kernels.pair_babai import check_pairs
from mediant.kernels.pairs import ENTRIES, PAIRS, SINGLES


def pair_descent(
    matrix: Floats, codes: Bytes, scales: Floats, metric: Floats, points: Floats, group: int, paired: int, sweeps: int
) -> Bytes:
    """Better codes [rows, columns] for a finite float32 matrix [rows, columns] whose pairs are neighbours; a new array.

    Args:
        matrix: what is rounded.
        codes: uint8, where to begin, as kernels/pairs.py has them.
        scales: float32 [rows, groups].
        metric: M, float32 [columns, columns], positive definite.
        points: float32 [2, 16].
        group: neighbouring columns that share a scale, even.
        paired: columns that are pairs, the first of all.
        sweeps: rounds over all columns.

    Raises:
        ValueError: the shapes do not fit, or the codes of a pair are not those of one point.
    """
    rows, columns = matrix.shape
    shapes = (codes.shape, metric.shape, scales.shape)
    if shapes != ((rows, columns), (columns, columns), (rows, -(-columns // group))):
        raise ValueError(f"codes, metric and scales of the shapes {shapes} do not fit a matrix {matrix.shape}")
    check_pairs(points, columns, group, paired)
    if (codes >= ENTRIES).any() or (codes[:, 1:paired:2] != codes[:, 0:paired:2] + PAIRS).any():
        raise ValueError("the codes of a pair are not those of one point")
    w, better = np.ascontiguousarray(matrix, np.float32), np.array(codes, np.uint8, order="C")
    book = np.ascontiguousarray(points, np.float32)
    if native is None:
        pair_descent_reference(w, better, scales, metric, book, group, paired, sweeps)
    else:
        native.pair_descent(
            w, np.ascontiguousarray(metric, np.float32), np.ascontiguousarray(scales, np.float32), book, group,
            paired, sweeps, better, threads(),
        )  # fmt: skip
    return better


def pair_descent_reference(
    matrix: Floats, codes: Bytes, scales: Floats, metric: Floats, points: Floats, group: int, paired: int, sweeps: int
) -> None:
    """`pair_descent` in NumPy, for checked arguments, in place: vectorised over rows."""
    rows, columns = matrix.shape
    decoded = np.repeat(scales, group, axis=1)[:, :columns] * points.reshape(-1)[codes]
    gradient = np.zeros_like(matrix)
    for j in range(columns):
        gradient += (decoded[:, j] - matrix[:, j])[:, None] * metric[j]
    every = np.arange(rows)
    for _ in range(sweeps):
        for j in range(0, paired, 2):
            scale, r1, r2 = scales[:, j // group, None], gradient[:, j, None], gradient[:, j + 1, None]
            x, y = scale * points[0] - decoded[:, j, None], scale * points[1] - decoded[:, j + 1, None]
            straight = x * ((r1 + r1) + metric[j, j] * x) + y * ((r2 + r2) + metric[j + 1, j + 1] * y)
            change = straight + (metric[j, j + 1] + metric[j, j + 1]) * (x * y)
            p = np.argmin(change, axis=1)
            gains = change[every, p] < 0
            codes[:, j], codes[:, j + 1] = np.where(gains, p, codes[:, j]), np.where(gains, PAIRS + p, codes[:, j + 1])
            for k, moves in ((j, x), (j + 1, y)):
                move = np.where(gains, moves[every, p], np.float32(0))
                gradient += move[:, None] * metric[k]
                decoded[:, k] = scale[:, 0] * points.reshape(-1)[codes[:, k]]
        for j in range(paired, columns):
            scale, r1 = scales[:, j // group, None], gradient[:, j, None]
            x = scale * points[0, :SINGLES] - decoded[:, j, None]
            change = x * ((r1 + r1) + metric[j, j] * x)
            p = np.argmin(change, axis=1)
            gains = change[every, p] < 0
            codes[:, j] = np.where(gains, p, codes[:, j])
            gradient += np.where(gains, x[every, p], np.float32(0))[:, None] * metric[j]
            decoded[:, j] = scale[:, 0] * points[0][codes[:, j]]
