"""Rounding a layer's rows against its Hessian: Babai's nearest plane, with scales found on the way.

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

All arithmetic is float32. Sums over a group go through eight lanes, i mod 8, added in order, then (0+4) + (2+6) and
(1+5) + (3+7): so the native twin, the reference, and any number of threads give the same bits. Cost per row: n^2 / 2
multiply-adds. `k_best` looks further ahead, and `descent` improves what either has found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import native, threads
from mediant.kernels.bfloat16 import from_float32, to_float32
from mediant.kernels.scale_codes import FULL, ScaleForm

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

LANES = 8
TRIALS = np.float32(0.45) + np.float32(0.06) * np.arange(12, dtype=np.float32)
HEADROOM = np.float32(1.15)


@dataclass(frozen=True)
class MetricFactors:
    """A metric and its factors, as `babai` takes them: float32, C-contiguous.

    feedback: V [columns, columns], unit upper triangular. conditional: d [columns]. metric: M [columns, columns].
    order: which column of the matrix each of them is for, or None for the columns as they come. Kernels do not look at
    it: who calls them has put the matrix in this order.
    """

    feedback: Floats
    conditional: Floats
    metric: Floats
    order: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Rounded:
    """Codes [rows, columns] uint8, row scales [rows] float32 that are bfloat16, scale codes [rows, groups] uint8.

    `outside` counts the weights that were beyond the grid when their turn came, where somebody has counted them.
    """

    codes: Bytes
    row_scales: Floats
    scale_codes: Bytes
    outside: int = 0

    def scales(self, form: ScaleForm) -> Floats:
        """Returns the scale of every group, [rows, groups]."""
        scales: Floats = self.row_scales[:, None] * scale_factors(form)[self.scale_codes]
        return scales


@dataclass(frozen=True)
class Grid:
    """Levels, ascending, and the middles between neighbours: float32, at most 256 levels."""

    levels: Floats
    middles: Floats
    affine: bool

    @classmethod
    def of(cls, levels: Floats) -> Grid:
        """Returns the grid of a table of levels, which may be evenly spaced by 1 or not.

        Raises:
            ValueError: there is no level, or more than 256.
        """
        if not 1 <= len(levels) <= 256:
            raise ValueError(f"a grid has 1 to 256 levels, not {len(levels)}")
        table = np.ascontiguousarray(levels, np.float32)
        return cls(table, (table[1:] + table[:-1]) * np.float32(0.5), bool(np.all(np.diff(table) == 1)))

    def nearest(self, w: Floats, scale: Floats) -> NDArray[np.int64]:
        """Returns codes of the levels nearest to w / scale; where the scale is 0, of the level nearest to 0."""
        x = w * inverse(scale)
        if not self.affine:
            return np.searchsorted(self.middles, x).astype(np.int64)
        top = np.float32(len(self.levels) - 1)
        codes: NDArray[np.int64] = np.clip(np.rint(x - self.levels[0]), np.float32(0), top).astype(np.int64)
        return codes


def babai(matrix: Floats, factored: MetricFactors, levels: Floats, group: int, form: ScaleForm) -> Rounded:
    """Rounds all rows of a matrix [rows, columns].

    Args:
        matrix: float32, finite.
        factored: of `columns` dimensions.
        levels: float32, ascending, at most 256; evenly spaced by 1 or any table.
        group: neighbouring columns that share a scale; the last group may be shorter.
        form: how scales are stored; with a sign, negative ones are tried too.

    Raises:
        ValueError: the shapes do not fit, or `form` has 16 bits.
    """
    w, grid, factors = checked(matrix, factored, levels, form)
    if native is None:
        return babai_reference(w, factored, grid, group, factors)
    found = empty(w.shape, group)
    native.babai(
        w, factored.feedback, factored.conditional, grid.levels, grid.middles, grid.affine, group, factors,
        found.codes, found.row_scales, found.scale_codes, threads(),
    )  # fmt: skip
    return found


def checked(matrix: Floats, factored: MetricFactors, levels: Floats, form: ScaleForm) -> tuple[Floats, Grid, Floats]:
    """Returns the matrix, the grid and the factors of the scale codes, as kernels take them.

    Raises:
        ValueError: as for `babai`.
    """
    columns = matrix.shape[1]
    if factored.metric.shape != (columns, columns):
        raise ValueError(f"{columns} columns need a metric of as many, not one of {factored.metric.shape}")
    if form.bits == FULL:
        raise ValueError("scales are found among the codes of 2 to 8 bits, not as numbers of 16")
    return np.ascontiguousarray(matrix, np.float32), Grid.of(levels), scale_factors(form)


def empty(shape: tuple[int, int], group: int) -> Rounded:
    """Room for what a kernel finds for a matrix [rows, columns]."""
    rows, columns = shape
    return Rounded(
        np.empty(shape, np.uint8), np.empty(rows, np.float32), np.empty((rows, -(-columns // group)), np.uint8)
    )


def scale_factors(form: ScaleForm) -> Floats:
    """Returns the multiplier of the row scale for every scale code: magnitudes, then their negatives if signed."""
    powers = form.powers()
    return np.concatenate([powers, -powers]) if form.signed else powers


def babai_reference(matrix: Floats, factored: MetricFactors, grid: Grid, group: int, factors: Floats) -> Rounded:
    """`babai` in NumPy, for checked arguments: vectorised over rows."""
    w, d = matrix.copy(), factored.conditional
    found = empty(w.shape, group)
    found.row_scales[:] = row_scales(w, d, grid, group)
    for g, here in enumerate(groups(w.shape[1], group)):
        code, scale = best_scales(w[:, here], d[here], found.row_scales, grid, factors)
        found.scale_codes[:, g] = code
        for j in range(here.start, here.stop):
            codes = grid.nearest(w[:, j], scale)
            found.codes[:, j] = codes
            w[:, j + 1 :] -= (w[:, j] - scale * grid.levels[codes])[:, None] * factored.feedback[j, j + 1 :]
    return found


def groups(columns: int, group: int) -> Iterator[slice]:
    """Yields the columns of every group."""
    yield from (slice(a, min(a + group, columns)) for a in range(0, columns, group))


def row_scales(w: Floats, d: Floats, grid: Grid, group: int, headroom: np.float32 = HEADROOM) -> Floats:
    """Step 1, for rows w [rows, columns]."""
    top = np.abs(grid.levels[[0, -1]]).max()
    best = np.zeros(len(w), np.float32)
    for here in groups(w.shape[1], group):
        unit = np.abs(w[:, here]).max(axis=1) / top
        errors = [group_error(w[:, here], d[here], unit * t, grid) for t in TRIALS]
        best = np.maximum(best, unit * TRIALS[np.argmin(errors, axis=0)])
    return to_float32(from_float32(best * headroom * np.float32(1 + 2**-8)))


def best_scales(w: Floats, d: Floats, rows: Floats, grid: Grid, factors: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Step 2, for the columns w [rows, size] of one group: scale codes and scales."""
    code = np.argmin([group_error(w, d, rows * f, grid) for f in factors], axis=0)
    return code, rows * factors[code]


def group_error(w: Floats, d: Floats, scale: Floats, grid: Grid) -> Floats:
    """sum_i d_i (w_i - s l_i)^2 of one group [rows, size] for each row's scale, in lanes."""
    error = w - scale[:, None] * grid.levels[grid.nearest(w, scale[:, None])]
    return in_lanes(d * (error * error))


def in_lanes(terms: Floats) -> Floats:
    """Sums of the rows [rows, size], in the order that the kernels keep."""
    padded = np.pad(terms, ((0, 0), (0, -terms.shape[1] % LANES))).reshape(len(terms), -1, LANES)
    lanes = np.zeros((len(terms), LANES), np.float32)
    for k in range(padded.shape[1]):
        lanes += padded[:, k]
    a = (lanes[:, 0] + lanes[:, 4]) + (lanes[:, 2] + lanes[:, 6])
    total: Floats = a + ((lanes[:, 1] + lanes[:, 5]) + (lanes[:, 3] + lanes[:, 7]))
    return total


def inverse(scale: Floats) -> Floats:
    """1/s, and 0 for s = 0, which makes every code that of the level nearest 0."""
    with np.errstate(divide="ignore"):
        return np.where(scale == 0, np.float32(0), np.float32(1) / scale)
