"""What the groups of a matrix ask for: squared gradients and variances, and the bit widths that follow from them.

Rows are sorted by log2 var(w) + log2 G² and cut into clusters of nearly equal size, so that the rows of a group are
alike; bit widths follow from a group's demand and the multiplier V (dual_ascent.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.forms.compand import dual_ascent
from mediant.forms.compand.companded_matrix import cluster_count, rows_of

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Demand:
    """What allocation knows of a matrix: G² and the variance of weights, float32 [clusters, columns], and the cluster
    of every row, uint8 [rows].
    """

    squares: Floats
    variances: Floats
    clusters: Bytes

    @property
    def sizes(self) -> NDArray[np.float64]:
        """Weights of every group, [clusters, columns]."""
        counts = np.bincount(self.clusters, minlength=len(self.squares)).astype(np.float64)
        return np.broadcast_to(counts[:, None], self.squares.shape)


def clusters(matrix: Floats, row_squares: NDArray[np.floating], size: int) -> Bytes:
    """Returns the cluster of every row: sorted by log2 var(w) + log2 G², cut into runs of about `size` rows."""
    tiny = np.finfo(np.float64).tiny
    key = np.log2(matrix.var(axis=1, dtype=np.float64) + tiny) + np.log2(row_squares.astype(np.float64) + tiny)
    count = cluster_count(len(matrix), size)
    found = np.empty(len(matrix), np.uint8)
    found[np.argsort(key, kind="stable")] = np.arange(len(matrix)) * count // len(matrix)
    return found


def demand(matrix: Floats, squares: Floats, of_rows: Bytes) -> Demand:
    """Returns the demand of a matrix with the squared gradients [rows, columns] and given clusters."""
    members = rows_of(of_rows, int(of_rows.max()) + 1)
    means = np.stack([squares[rows].mean(axis=0) for rows in members])
    return Demand(means.astype(np.float32), np.stack([matrix[rows].var(axis=0) for rows in members]), of_rows)


def bit_widths(demand: Demand, multiplier: float) -> Bytes:
    """Returns the bit widths that dual ascent gives the groups of a companded matrix, uint8 [clusters, columns]."""
    return dual_ascent.whole(dual_ascent.log2_demand(demand.squares, demand.variances), math.log2(multiplier))


def multiplier_within(demands: Sequence[Demand], rate: float) -> float:
    """V at which whole bit widths of all groups have a mean of at most `rate` bits."""
    demand = np.concatenate([dual_ascent.log2_demand(d.squares, d.variances).reshape(-1) for d in demands])
    sizes = np.concatenate([d.sizes.reshape(-1) for d in demands])
    return float(f"{2 ** dual_ascent.within(demand, sizes, rate):.9g}")
