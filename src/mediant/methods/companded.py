"""CVXQ's form of a matrix: groups of one column of one cluster of rows, each with a depth, a scale and a centre.

Depths follow from the group's demand and the multiplier V (planning/dual_ascent.py); codes, scales and centres are
those of methods/compander.py. Rows are sorted by log2 var(w) + log2 G² and cut into clusters of nearly equal size, so
that the rows of a group are alike.

Args: a matrix float32 [rows, columns] and its `Demand`.

Source: Young 2024 (arXiv 2409.02026), sections 3.1 to 3.3. Deviations: those of the compander and of the allocation;
(1) every overhead is stored and counted: 4 bits of depth, 16 of scale and 16 of centre a group, and the cluster of
every row.

Cost: that of the compander.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mediant.kernels.companded_matrix import CompandedMatrix, levels, rows_of
from mediant.kernels.part_shapes import cluster_count
from mediant.methods import compander
from mediant.methods.layer import Layer
from mediant.methods.quantize import Quantized
from mediant.values import Certificate

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
    """The cluster of every row: sorted by log2 var(w) + log2 G², cut into runs of about `size` rows."""
    tiny = np.finfo(np.float64).tiny
    key = np.log2(matrix.var(axis=1, dtype=np.float64) + tiny) + np.log2(row_squares.astype(np.float64) + tiny)
    count = cluster_count(len(matrix), size)
    found = np.empty(len(matrix), np.uint8)
    found[np.argsort(key, kind="stable")] = np.arange(len(matrix)) * count // len(matrix)
    return found


def demand(matrix: Floats, squares: Floats, of_rows: Bytes) -> Demand:
    """The demand of a matrix with the squared gradients [rows, columns] and given clusters."""
    members = rows_of(of_rows, int(of_rows.max()) + 1)
    means = np.stack([squares[rows].mean(axis=0) for rows in members])
    return Demand(means.astype(np.float32), np.stack([matrix[rows].var(axis=0) for rows in members]), of_rows)


def compand(matrix: Floats, of_rows: Bytes, depths: Bytes, search: bool = True) -> CompandedMatrix:
    """Codes of a matrix for given depths [clusters, columns]."""
    codes = np.empty(matrix.shape, np.uint8)
    scales, centres = np.empty(depths.shape, np.float32), np.empty(depths.shape, np.float32)
    for cluster, rows in enumerate(rows_of(of_rows, len(depths))):
        weights, bits = torch.from_numpy(matrix[rows]), torch.from_numpy(depths[cluster])
        scale, centre = compander.fit(weights, bits, search)
        codes[rows] = compander.codes(weights, scale, centre, bits).numpy()
        scales[cluster], centres[cluster] = scale.numpy(), centre.numpy()
    return CompandedMatrix(codes, of_rows, depths, scales, centres)


def encode(layer: Layer, of_rows: Bytes, depths: Bytes) -> Quantized:
    """A layer's matrix as it is stored, and what is known about its error."""
    found = compand(layer.matrix, of_rows, depths)
    matrix = found.matrix()
    gaps = [float(np.diff(levels(int(bits))).max()) / 2 for bits in np.unique(depths) if bits]
    inner = Certificate(0.0, 0.0, max(gaps, default=0.0), _outside(found))
    return Quantized(found.parts(), matrix, layer.certified(inner, matrix))


def _outside(found: CompandedMatrix) -> float:
    """The share of the weights in outermost cells, which have no end."""
    ends = (1 << found.depths.astype(np.int64)) - 1
    outermost = (found.codes == 0) | (found.codes == ends[found.clusters])
    return float(outermost[found.depths[found.clusters] > 0].sum()) / found.codes.size
