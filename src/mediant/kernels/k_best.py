"""Rounding a layer's rows against its Hessian with several candidates at once: the K-best sphere decoder.

The same problem, recursion and arithmetic as `babai`. There each column takes the nearest level and is done with; here
the `beams` cheapest beginnings of a row are kept, each with its own carried errors, scales and cost sum_j d_j e_j^2. At
every column each beam proposes its nearest level and beams - 1 neighbours on either side (nearest, one below, one
above, two below, ...), and of all proposals the cheapest are kept; of equals, those of the earlier beam, in that
order. No other level could be among them. With one beam it is `babai`; with as many beams as there are grid points it
finds the closest vector for the scales on its way (Guo & Nilsson 2006, IEEE JSAC 24(3), section III).

Native, reference, and any number of threads give the same bits. Cost per row: beams * n^2 / 2 multiply-adds, and
2 beams^2 proposals a column.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import native, threads
from mediant.kernels.babai import Floats, Grid, MetricFactors, Rounded, best_scales, checked, empty, groups, row_scales
from mediant.kernels.scale_codes import ScaleForm

MOST_BEAMS = 256


def k_best(matrix: Floats, factored: MetricFactors, levels: Floats, group: int, form: ScaleForm, beams: int) -> Rounded:
    """Rounds all rows of a matrix [rows, columns]; other arguments as for `babai`.

    Raises:
        ValueError: as for `babai`, or `beams` is not 1 to 256.
    """
    if not 1 <= beams <= MOST_BEAMS:
        raise ValueError(f"1 to {MOST_BEAMS} beams can be kept, not {beams}")
    w, grid, factors = checked(matrix, factored, levels, form)
    if native is None:
        return k_best_reference(w, factored, grid, group, factors, beams)
    found = empty(w.shape, group)
    native.k_best(
        w, factored.feedback, factored.conditional, grid.levels, grid.middles, grid.affine, group, factors, beams,
        found.codes, found.row_scales, found.scale_codes, threads(),
    )  # fmt: skip
    return found


def k_best_reference(
    matrix: Floats, factored: MetricFactors, grid: Grid, group: int, factors: Floats, beams: int
) -> Rounded:
    """`k_best` in NumPy, for checked arguments: vectorised over rows and beams; a beam that is not there costs inf."""
    (rows, columns), d = matrix.shape, factored.conditional
    found = empty(matrix.shape, group)
    found.row_scales[:] = row_scales(matrix, d, grid, group)
    of_beams = np.repeat(found.row_scales, beams)
    w = np.repeat(matrix[:, None], beams, axis=1)
    costs = np.full((rows, beams), np.inf, np.float32)
    costs[:, 0] = 0
    codes = np.empty((columns, rows, beams), np.uint8)
    parents = np.empty((columns, rows, beams), np.int64)
    scale_codes = np.empty((found.scale_codes.shape[1], rows, beams), np.uint8)
    every = np.arange(rows)[:, None]
    for g, here in enumerate(groups(columns, group)):
        code, scale = best_scales(w[:, :, here].reshape(rows * beams, -1), d[here], of_beams, grid, factors)
        scale_codes[g], scale = code.reshape(rows, beams), scale.reshape(rows, beams)
        for j in range(here.start, here.stop):
            parents[j], chosen, error, costs = _choose(w[:, :, j], scale, costs, d[j], grid, beams)
            codes[j] = chosen
            w, scale = w[every, parents[j]], scale[every, parents[j]]
            w[:, :, j + 1 :] -= error[:, :, None] * factored.feedback[j, j + 1 :]
    _trace(found, codes, parents, scale_codes, group)
    return found


def _choose(
    w: Floats, scale: Floats, costs: Floats, d: np.float32, grid: Grid, beams: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]:
    """Parents, codes, errors and costs of the beams that are kept at a column, [rows, beams]."""
    rows, steps = len(w), np.arange(2 * beams - 1)
    offsets = np.where(steps % 2, -(steps + 1) // 2, steps // 2)
    codes = grid.nearest(w, scale)[:, :, None] + offsets
    there = (codes >= 0) & (codes < len(grid.levels))
    codes = np.where(there, codes, 0)
    error = w[:, :, None] - scale[:, :, None] * grid.levels[codes]
    total = np.where(there, costs[:, :, None] + d * (error * error), np.float32(np.inf)).reshape(rows, -1)
    kept = np.argsort(total, axis=1, kind="stable")[:, :beams]

    def of_kept(values: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.take_along_axis(values.reshape(rows, -1), kept, axis=1)

    return kept // len(steps), of_kept(codes), of_kept(error), of_kept(total)  # type: ignore[return-value]


def _trace(
    found: Rounded, codes: NDArray[np.uint8], parents: NDArray[np.int64], scale_codes: NDArray[np.uint8], group: int
) -> None:
    """Follows the cheapest beam of every row back to its first column."""
    every, beam = np.arange(codes.shape[1]), np.zeros(codes.shape[1], np.int64)
    for j in reversed(range(len(codes))):
        found.codes[:, j] = codes[j, every, beam]
        beam = parents[j, every, beam]
        if j % group == 0:
            found.scale_codes[:, j // group] = scale_codes[j // group, every, beam]
