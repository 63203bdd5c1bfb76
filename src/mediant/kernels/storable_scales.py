"""The nearest level for every weight, under the best of the scales that can be stored: no error is carried on.

For each row of a matrix [rows, columns], with column weights d, minimise over codes and group scales

    sum_j d_j (w_j - s_g l(p_j))^2.

1. *Row scale.* Best of twelve multiples of max|w|, of the group with the largest |w| and of the one with the largest
   sum of d w^2; the larger of the two, rounded up to bfloat16. The maximum over all groups errs as little, to half a
   percent, and takes most of the time.
2. *Group scale.* Every scale that a code can express is tried, and the best is kept: the exact optimum over what can be
   stored under that row scale.

Where the levels are their own mirror image, errors are those of |w| and the upper half of the levels. Codes are those
of `babai`, and so are arithmetic and the order of sums: the native twin, the reference, and any number of threads give
the same bits. Cost: as many passes over a group as there are scale codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import native, threads
from mediant.kernels.babai import (
    Floats,
    Grid,
    Rounded,
    best_scales,
    empty,
    group_error,
    groups,
    row_scales,
    scale_factors,
)
from mediant.kernels.scale_codes import FULL, ScaleForm

NO_HEADROOM = np.float32(1)


def storable_scales(
    matrix: Floats, weights: Floats, levels: NDArray[np.float32], group: int, form: ScaleForm
) -> Rounded:
    """Rounds all rows of a matrix [rows, columns].

    Args:
        matrix: float32, finite.
        weights: d, float32 [columns], not negative.
        levels: float32, ascending, at most 256; evenly spaced by 1 or any table.
        group: neighbouring columns that share a scale; the last group may be shorter.
        form: how scales are stored; with a sign, negative ones are tried too.

    Raises:
        ValueError: the shapes do not fit, or `form` has 16 bits.

    >>> found = storable_scales(
    ...     np.float32([[3, -1, 1, 3]]), np.ones(4, np.float32), np.float32([-1.5, -0.5, 0.5, 1.5]), 4,
    ...     ScaleForm(3, signed=False, steps=4),
    ... )
    >>> found.codes.tolist()
    [[3, 1, 2, 3]]
    """
    if weights.shape != matrix.shape[1:]:
        raise ValueError(f"{matrix.shape[1]} columns need as many weights, not {weights.shape}")
    if form.bits == FULL:
        raise ValueError("scales are found among the codes of 2 to 8 bits, not as numbers of 16")
    w, d = np.ascontiguousarray(matrix, np.float32), np.ascontiguousarray(weights, np.float32)
    search, factors, found = Search.of(levels), scale_factors(form), empty(w.shape, group)
    if native is None:
        return storable_scales_reference(w, d, search, group, factors)
    grid, upper = search.grid, search.upper
    native.storable_scales(
        w, d, grid.levels, grid.middles, grid.affine, upper.levels, upper.middles, upper.affine, search.mirrored, group,
        factors, found.codes, found.row_scales, found.scale_codes, threads(),
    )  # fmt: skip
    return found


@dataclass(frozen=True)
class Search:
    """A grid, and the one that errors are found by: its upper half where it is `mirrored`, else the grid itself."""

    grid: Grid
    upper: Grid
    mirrored: bool

    @classmethod
    def of(cls, levels: NDArray[np.float32]) -> Search:
        """Returns the grids of a table of levels."""
        mirrored = bool(np.array_equal(levels, -levels[::-1]))
        return cls(Grid.of(levels), Grid.of(levels[levels >= 0] if mirrored else levels), mirrored)


def storable_scales_reference(matrix: Floats, weights: Floats, search: Search, group: int, factors: Floats) -> Rounded:
    """`storable_scales` in NumPy, for checked arguments: vectorised over rows."""
    found = empty(matrix.shape, group)
    x = np.abs(matrix) if search.mirrored else matrix
    found.row_scales[:] = _row_scales(x, weights, search.upper, group)
    for g, here in enumerate(groups(matrix.shape[1], group)):
        code, scale = best_scales(x[:, here], weights[here], found.row_scales, search.upper, factors)
        found.scale_codes[:, g] = code
        found.codes[:, here] = search.grid.nearest(matrix[:, here], scale[:, None])
    return found


def _row_scales(x: Floats, weights: Floats, grid: Grid, group: int) -> Floats:
    """Returns the larger of the best scales of two groups of each row: that of the largest weight and of the largest
    energy.
    """
    where, none = list(groups(x.shape[1], group)), np.zeros(len(x), np.float32)
    scales = np.stack([row_scales(x[:, here], weights[here], grid, group, NO_HEADROOM) for here in where])
    loudest = np.argmax([group_error(x[:, here], weights[here], none, grid) for here in where], axis=0)
    tallest = np.argmax([np.abs(x[:, here]).max(axis=1) for here in where], axis=0)
    rows = np.arange(len(x))
    found: Floats = np.maximum(scales[loudest, rows], scales[tallest, rows])
    return found
