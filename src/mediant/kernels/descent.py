"""Coordinate descent on codes against a layer's full metric: what rounding column by column has left.

Minimises (w^ - w) M (w^ - w)^T over the codes of w^_j = s_g l(p_j), with the scales as they are, for each row w of a
matrix [rows, columns]. Column by column, the code is replaced by the one nearest to w^_j - r_j / M_jj with
r = (w^ - w) M: the best choice with all others fixed. A change moves r by one row of M. Sweeps never raise the error,
and end where no change of a single code helps (Nair & Suggala 2024, CDQuant, arXiv 2406.17542, does the same greedily).

All arithmetic is float32 and no sum is reordered: native, reference, and any number of threads give the same bits.
Cost per row: n^2 multiply-adds for the start, and n for every code that changes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import native, threads
from mediant.kernels.babai import Floats, Grid

Bytes = NDArray[np.uint8]


def descent(
    matrix: Floats, codes: Bytes, scales: Floats, metric: Floats, levels: Floats, group: int, sweeps: int
) -> Bytes:
    """Better codes [rows, columns] for a finite float32 matrix [rows, columns]; a new array.

    Args:
        matrix: what is rounded.
        codes: uint8, where to begin; each below the number of levels.
        scales: float32 [rows, groups].
        metric: M, float32 [columns, columns], positive definite.
        levels: float32, ascending, at most 256.
        group: neighbouring columns that share a scale.
        sweeps: rounds over all columns.

    Raises:
        ValueError: the shapes do not fit, or a code has no level.
    """
    rows, columns = matrix.shape
    shapes = (codes.shape, metric.shape, scales.shape)
    if shapes != ((rows, columns), (columns, columns), (rows, -(-columns // group))):
        raise ValueError(f"codes, metric and scales of the shapes {shapes} do not fit a matrix {matrix.shape}")
    grid = Grid.of(levels)
    if codes.size and int(codes.max()) >= len(grid.levels):
        raise ValueError(f"the code {int(codes.max())} is not below the number of levels, {len(grid.levels)}")
    w, better = np.ascontiguousarray(matrix, np.float32), np.array(codes, np.uint8, order="C")
    if native is None:
        descent_reference(w, better, scales, metric, grid, group, sweeps)
    else:
        native.descent(
            w, np.ascontiguousarray(metric, np.float32), np.ascontiguousarray(scales, np.float32), grid.levels,
            grid.middles, grid.affine, group, sweeps, better, threads(),
        )  # fmt: skip
    return better


def descent_reference(
    matrix: Floats, codes: Bytes, scales: Floats, metric: Floats, grid: Grid, group: int, sweeps: int
) -> None:
    """`descent` in NumPy, for checked arguments, in place: vectorised over rows."""
    columns = matrix.shape[1]
    decoded = np.repeat(scales, group, axis=1)[:, :columns] * grid.levels[codes]
    gradient = np.zeros_like(matrix)
    for j in range(columns):
        gradient += (decoded[:, j] - matrix[:, j])[:, None] * metric[j]
    inverse_diagonal = np.float32(1) / np.diag(metric)
    for _ in range(sweeps):
        for j in range(columns):
            scale = scales[:, j // group]
            better = grid.nearest(decoded[:, j] - gradient[:, j] * inverse_diagonal[j], scale)
            value = scale * grid.levels[better]
            change = value - decoded[:, j]
            codes[:, j] = np.where(change == 0, codes[:, j], better)
            gradient += change[:, None] * metric[j]
            decoded[:, j] = value
