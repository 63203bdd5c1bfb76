"""Rounding a layer's rows against its Hessian: Babai's nearest plane, scales found on the way, then descent.

For each row w of a matrix [rows, columns] and a positive definite metric M [columns, columns], minimise over codes and
group scales

    (w^ - w) M (w^ - w)^T,   w^_j = s_g l(p_j).

With M^-1 = U^T U, U upper triangular, and V_jk = U_jk / U_jj, the columns are taken in order. Column j is rounded, its
error e_j = w_j - w^_j is carried on, w_k -= e_j V_jk for k > j, and the total is sum_j d_j e_j^2 with d_j = 1 / U_jj^2:
GPTQ (Frantar et al. 2022, arXiv 2210.17323), which is Babai's nearest plane on the lattice of M, run from its last
vector to its first (Chen et al. 2025, arXiv 2507.18553, theorem 4).

1. *Row scale.* For every group the best of twelve multiples of max|w|, in the metric d; the row scale is 1.15 times the
   largest, rounded up to bfloat16: errors that are carried on make later weights larger.
2. *Group scale.* When a group's first column is reached, every scale that a code can express is tried on the group as
   it then is, in the metric d, and the best is kept: the exact optimum over what can be stored.
3. *Descent.* Column by column, the code is replaced by the one nearest to w^_j - r_j / M_jj, r = (w^ - w) M: the best
   choice with all others fixed. Sweeps never raise the error.

All arithmetic is float32. Sums over a group go through eight lanes, i mod 8, added in order, then (0+4) + (2+6) and
(1+5) + (3+7): so the native twin, the reference, and any number of threads give the same bits. Cost per row: n^2 / 2
multiply-adds for 2., n^2 for the start of 3. and n for every code that a sweep changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import native, threads
from mediant.kernels.bfloat16 import from_float32, to_float32
from mediant.kernels.scale_codes import FULL, ScaleForm

Floats = NDArray[np.float32]

LANES = 8
TRIALS = np.float32(0.45) + np.float32(0.06) * np.arange(12, dtype=np.float32)
HEADROOM = np.float32(1.15)


@dataclass(frozen=True)
class Lattice:
    """A metric and its factors, as `babai` takes them: float32, C-contiguous.

    feedback: V [columns, columns], unit upper triangular. conditional: d [columns]. metric: M [columns, columns].
    """

    feedback: Floats
    conditional: Floats
    metric: Floats


@dataclass(frozen=True)
class Rounded:
    """Codes [rows, columns] uint8, row scales [rows] float32 that are bfloat16, scale codes [rows, groups] uint8."""

    codes: NDArray[np.uint8]
    row_scales: Floats
    scale_codes: NDArray[np.uint8]


def babai(matrix: Floats, lattice: Lattice, levels: Floats, group: int, form: ScaleForm, sweeps: int) -> Rounded:
    """Rounds all rows of a matrix [rows, columns].

    Args:
        matrix: float32, finite.
        lattice: of `columns` dimensions.
        levels: float32, ascending, at most 256; evenly spaced by 1 or any table.
        group: neighbouring columns that share a scale; the last group may be shorter.
        form: how scales are stored; with a sign, negative ones are tried too.
        sweeps: rounds of descent.

    Raises:
        ValueError: the shapes do not fit, or `form` has 16 bits.
    """
    rows, columns = matrix.shape
    if lattice.metric.shape != (columns, columns) or not 1 <= len(levels) <= 256:
        raise ValueError(f"{columns} columns need a metric of as many, and 1 to 256 levels")
    if form.bits == FULL:
        raise ValueError("scales are found among the codes of 2 to 8 bits, not as numbers of 16")
    w = np.ascontiguousarray(matrix, np.float32)
    factors = _factors(form)
    if native is None:
        return babai_reference(w, lattice, levels, group, factors, sweeps)
    codes = np.empty((rows, columns), np.uint8)
    scale_codes = np.empty((rows, -(-columns // group)), np.uint8)
    row_scales = np.empty(rows, np.float32)
    table = np.ascontiguousarray(levels, np.float32)
    native.babai(
        w, lattice.feedback, lattice.conditional, lattice.metric, table, _is_affine(table), group, factors, sweeps,
        codes, row_scales, scale_codes, threads(),
    )  # fmt: skip
    return Rounded(codes, row_scales, scale_codes)


def _factors(form: ScaleForm) -> Floats:
    """What a scale code multiplies the row scale by, for every code: magnitudes, then their negatives if signed."""
    powers = form.powers()
    return np.concatenate([powers, -powers]) if form.signed else powers


def _is_affine(levels: Floats) -> bool:
    return bool(np.all(np.diff(levels) == 1))


def babai_reference(
    matrix: Floats, lattice: Lattice, levels: Floats, group: int, factors: Floats, sweeps: int
) -> Rounded:
    """`babai` in NumPy, for checked arguments: vectorised over rows."""
    w, d, v = matrix.copy(), lattice.conditional, lattice.feedback
    rows, columns = w.shape
    nearest = _nearest_affine if _is_affine(levels) else _nearest_table
    groups = [slice(a, min(a + group, columns)) for a in range(0, columns, group)]
    row_scales = _row_scales(w, d, levels, groups, nearest)
    codes = np.empty((rows, columns), np.uint8)
    decoded = np.empty_like(w)
    scale_codes = np.empty((rows, len(groups)), np.uint8)
    scales = np.empty((rows, len(groups)), np.float32)
    for g, here in enumerate(groups):
        errors = [_group_error(w[:, here], d[here], row_scales * f, levels, nearest) for f in factors]
        scale_codes[:, g] = np.argmin(errors, axis=0)
        scales[:, g] = row_scales * factors[scale_codes[:, g]]
        for j in range(here.start, here.stop):
            codes[:, j] = nearest(w[:, j], scales[:, g], levels)
            decoded[:, j] = scales[:, g] * levels[codes[:, j]]
            w[:, j + 1 :] -= (w[:, j] - decoded[:, j])[:, None] * v[j, j + 1 :]
    if sweeps:
        _descend(matrix, codes, decoded, scales, lattice.metric, levels, group, sweeps, nearest)
    return Rounded(codes, row_scales, scale_codes)


def _row_scales(w: Floats, d: Floats, levels: Floats, groups: list[slice], nearest: object) -> Floats:
    top = np.abs(levels[[0, -1]]).max()
    best = np.zeros(len(w), np.float32)
    for here in groups:
        unit = np.abs(w[:, here]).max(axis=1) / top
        errors = [_group_error(w[:, here], d[here], unit * t, levels, nearest) for t in TRIALS]
        best = np.maximum(best, unit * TRIALS[np.argmin(errors, axis=0)])
    return to_float32(from_float32(best * HEADROOM * np.float32(1 + 2**-8)))


def _group_error(w: Floats, d: Floats, scale: Floats, levels: Floats, nearest: object) -> Floats:
    """sum_i d_i (w_i - s l_i)^2 of one group [rows, size] for each row's scale, in lanes."""
    codes = nearest(w, scale[:, None], levels)  # type: ignore[operator]
    error = w - scale[:, None] * levels[codes]
    terms = d * (error * error)
    padded = np.pad(terms, ((0, 0), (0, -terms.shape[1] % LANES))).reshape(len(w), -1, LANES)
    lanes = np.zeros((len(w), LANES), np.float32)
    for k in range(padded.shape[1]):
        lanes += padded[:, k]
    a = (lanes[:, 0] + lanes[:, 4]) + (lanes[:, 2] + lanes[:, 6])
    total: Floats = a + ((lanes[:, 1] + lanes[:, 5]) + (lanes[:, 3] + lanes[:, 7]))
    return total


def _nearest_affine(w: Floats, scale: Floats, levels: Floats) -> NDArray[np.uint8]:
    position = np.rint(w * _inverse(scale) - levels[0])
    clipped: Floats = np.clip(position, np.float32(0), np.float32(len(levels) - 1))
    return clipped.astype(np.uint8)


def _nearest_table(w: Floats, scale: Floats, levels: Floats) -> NDArray[np.uint8]:
    middles = (levels[1:] + levels[:-1]) * np.float32(0.5)
    below = np.searchsorted(middles, w * _inverse(scale))
    return below.astype(np.uint8)


def _inverse(scale: Floats) -> Floats:
    """1/s, and 0 for s = 0, which makes every code that of the level nearest 0."""
    with np.errstate(divide="ignore"):
        return np.where(scale == 0, np.float32(0), np.float32(1) / scale)


def _descend(
    matrix: Floats,
    codes: NDArray[np.uint8],
    decoded: Floats,
    scales: Floats,
    metric: Floats,
    levels: Floats,
    group: int,
    sweeps: int,
    nearest: object,
) -> None:
    gradient = np.zeros_like(matrix)
    for j in range(matrix.shape[1]):
        gradient += (decoded[:, j] - matrix[:, j])[:, None] * metric[j]
    inverse = np.float32(1) / np.diag(metric)
    for _ in range(sweeps):
        for j in range(matrix.shape[1]):
            scale = scales[:, j // group]
            target = decoded[:, j] - gradient[:, j] * inverse[j]
            codes[:, j] = nearest(target, scale, levels)  # type: ignore[operator]
            value = scale * levels[codes[:, j]]
            gradient += (value - decoded[:, j])[:, None] * metric[j]
            decoded[:, j] = value
