"""Babai rounding of codes that are read at several precisions: their leading bits are to be good codes too.

A code p of b bits is also read as p >> (b - r), its r leading bits, each *reading* with levels of its own:
w^_rj = s_g l_r(p_j >> (b - r)), one scale for all. For each row w of a matrix [rows, columns] and a metric M
[columns, columns], minimise over codes and group scales

    sum_r a_r (w^_r - w) M (w^_r - w)^T.

The recursion is that of `babai`, except that every reading carries on its own errors: reading r has rounded column j to
w^_rj, whatever the others did. So row w becomes w_r, w_rk -= (w_rj - w^_rj) V_jk, the total is
sum_j d_j sum_r a_r (w_rj - w^_rj)^2, and column j takes the code of least inner sum. Scales are found as in `babai`, in
the same sum; then `sweeps` rounds of coordinate descent on the total, as in `descent`.

Matryoshka quantization (Nair et al. 2025, arXiv 2502.06786) trains weights for such codes; MatGPTQ rounds them with one
error, mixed from those of the readings, that is carried on. Carrying each one's own is exact.

All arithmetic is float32, sums over readings in their order and sums over a group in lanes as in `babai`: native,
reference, and any number of threads give the same bits. Cost: that of `babai` and `descent` times the readings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import native, threads
from mediant.kernels.babai import HEADROOM, TRIALS, Floats, MetricFactors, Rounded, checked, empty, groups, in_lanes
from mediant.kernels.bfloat16 import from_float32, to_float32
from mediant.kernels.scale_codes import ScaleForm

MOST_READINGS = 8


def nested_babai(
    matrix: Floats, factored: MetricFactors, levels: Floats, weights: Floats, group: int, form: ScaleForm, sweeps: int
) -> Rounded:
    """Rounds all rows of a matrix [rows, columns]; other arguments as for `babai` and `descent`.

    Args:
        matrix: float32, finite.
        factored: of `columns` dimensions.
        levels: float32 [readings, codes]: the level that each reading gives a code.
        weights: a, float32 [readings], not negative.
        group: neighbouring columns that share a scale.
        form: how scales are stored.
        sweeps: rounds of descent.

    Raises:
        ValueError: as for `babai`, or more than eight readings.
    """
    readings = len(levels)
    if not 1 <= readings <= MOST_READINGS or weights.shape != (readings,):
        raise ValueError(f"codes have 1 to {MOST_READINGS} readings and a weight for each, not {readings}")
    w, _, factors = checked(matrix, factored, levels[0], form)
    table, a = np.ascontiguousarray(levels, np.float32), np.ascontiguousarray(weights, np.float32)
    if native is None:
        return nested_babai_reference(w, factored, table, a, group, factors, sweeps)
    found = empty(w.shape, group)
    native.nested_babai(
        w, factored.feedback, factored.conditional, factored.metric, table, a, group, factors, sweeps,
        found.codes, found.row_scales, found.scale_codes, threads(),
    )  # fmt: skip
    return found


def nested_babai_reference(
    matrix: Floats, factored: MetricFactors, levels: Floats, weights: Floats, group: int, factors: Floats, sweeps: int
) -> Rounded:
    """`nested_babai` in NumPy, for checked arguments: vectorised over rows; w is [readings, rows, columns]."""
    columns, d = matrix.shape[1], factored.conditional
    w = np.repeat(matrix[None], len(levels), axis=0)
    found = empty(matrix.shape, group)
    found.row_scales[:] = _row_scales(w, d, levels, weights, group)
    scales = np.empty(found.scale_codes.shape, np.float32)
    for g, here in enumerate(groups(columns, group)):
        errors = [_group_error(w[:, :, here], d[here], found.row_scales * f, levels, weights) for f in factors]
        found.scale_codes[:, g] = np.argmin(errors, axis=0)
        scales[:, g] = found.row_scales * factors[found.scale_codes[:, g]]
        for j in range(here.start, here.stop):
            codes = _costs(w[:, :, j], scales[:, g], levels, weights).argmin(axis=0)
            found.codes[:, j] = codes
            error = w[:, :, j] - scales[:, g] * levels[:, codes]
            w[:, :, j + 1 :] -= error[:, :, None] * factored.feedback[j, j + 1 :]
    if sweeps:
        _descend(matrix, found.codes, scales, factored.metric, levels, weights, group, sweeps)
    return found


def _costs(x: Floats, scale: Floats, levels: Floats, weights: Floats) -> Floats:
    """sum_r a_r (x_r - s l_r)^2 of every code, [codes, ...], for x [readings, ...] and a scale that fits x[0]."""
    costs = np.zeros((levels.shape[1], *x.shape[1:]), np.float32)
    for reading, table, weight in zip(x, levels, weights, strict=True):
        error = reading - scale * table.reshape(-1, *[1] * scale.ndim)
        costs += weight * (error * error)
    return costs


def _group_error(w: Floats, d: Floats, scale: Floats, levels: Floats, weights: Floats) -> Floats:
    return in_lanes(d * _costs(w, scale[:, None], levels, weights).min(axis=0))


def _row_scales(w: Floats, d: Floats, levels: Floats, weights: Floats, group: int) -> Floats:
    best = np.zeros(w.shape[1], np.float32)
    for here in groups(w.shape[2], group):
        unit = np.abs(w[0, :, here]).max(axis=1) / np.abs(levels[0]).max()
        errors = [_group_error(w[:, :, here], d[here], unit * t, levels, weights) for t in TRIALS]
        best = np.maximum(best, unit * TRIALS[np.argmin(errors, axis=0)])
    return to_float32(from_float32(best * HEADROOM * np.float32(1 + 2**-8)))


def _descend(
    matrix: Floats,
    codes: NDArray[np.uint8],
    scales: Floats,
    metric: Floats,
    levels: Floats,
    weights: Floats,
    group: int,
    sweeps: int,
) -> None:
    columns = matrix.shape[1]
    gradient = np.zeros((len(levels), *matrix.shape), np.float32)
    for j in range(columns):
        change = scales[:, j // group] * levels[:, codes[:, j]] - matrix[:, j]
        gradient += change[:, :, None] * metric[j]
    inverse_diagonal = np.float32(1) / np.diag(metric)
    for _ in range(sweeps):
        for j in range(columns):
            scale = scales[:, j // group]
            old = scale * levels[:, codes[:, j]]
            better = _costs(old - gradient[:, :, j] * inverse_diagonal[j], scale, levels, weights).argmin(axis=0)
            codes[:, j] = better
            gradient += (scale * levels[:, better] - old)[:, :, None] * metric[j]
