"""How large the loss of a rounded matrix can be at worst, and how large it should be: known without comparing outputs.

Where no weight falls outside its grid, an error e_ij that rounding leaves is at most s_ij b, b half the widest gap
between levels. The loss (methods/layer.py) is 1/2 sum_i f_i E_i C E_i^T.

*On a lattice* E_i M E_i^T = sum_j d_j e_ij^2, with the errors e that were carried on and d as `babai` has it. So the
loss is at most 1/2 sum_ij f_i d_j s_ij^2 b^2, and, with errors spread evenly between levels,
1/2 sum_ij f_i d_j s_ij^2 v_ij is expected: 1/4 and 1/12 of the squared steps on a uniform grid (Chen et al. 2025, arXiv
2507.18553, section 5). Descent only lowers the error in M, so the bounds hold after it too; M is the layer's metric
made larger by damping. Where two terms with metrics of their own add up, f_i is the larger of their shares, and the
expected loss an upper estimate.

*Weight by weight*, E = e. Against a diagonal C, both sums are as above with C_jj for d_j. Against a full C, at worst
all errors conspire: E C E^T <= (sum_j |e_j| sqrt(C_jj))^2.

*In pairs*, the errors of a pair are those of its two columns in turn, and b is the largest circumradius of the
triangles between points: a pair that lies between points is no farther from one. v is half the mean squared distance
to the nearest point, of targets spread evenly over the points' hull.

v of a level with half gaps a and c to its neighbours is (a^3 + c^3) / 3 (a + c); the outermost have the inner one
twice.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import Delaunay

from mediant.kernels.babai import MetricFactors
from mediant.methods.layer import Layer

# Lines of the mesh on which the points of a codebook are looked at, each way.
MESH = 128

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


class Bounds(NamedTuple):
    """Losses in nats per token: the largest possible, and the one expected."""

    worst: float
    expected: float


def bounds(
    layer: Layer, factored: MetricFactors | None, scale: Floats, codes: NDArray[np.uint8], table: Doubles, group: int
) -> Bounds:
    """Bounds for the rows of a layer that were rounded with one table.

    Args:
        layer: the rows [rows, columns].
        factored: the one they were rounded on, or None if each weight was by itself.
        scale: [rows, groups].
        codes: [rows, columns].
        table: the levels.
        group: neighbouring columns that share a scale.
    """
    steps = np.square(np.repeat(scale, group, axis=1)[:, : codes.shape[1]], dtype=np.float64)
    worst, expected = steps * reach(table) ** 2, steps * _variances(table)[codes]
    if factored is not None:
        d, shares = in_matrix_order(factored), _shares(layer)
        return Bounds(0.5 * float(shares @ (worst @ d)), 0.5 * float(shares @ (expected @ d)))
    largest = usual = 0.0
    for term in layer.terms:
        c = term.columns if term.columns.ndim == 1 else np.diag(term.columns)
        rows = worst @ c if term.columns.ndim == 1 else np.square(np.sqrt(worst) @ np.sqrt(c))
        largest += 0.5 * float(term.rows @ rows)
        usual += 0.5 * float(term.rows @ (expected @ c))
    return Bounds(largest, usual)


def outside(error: Floats, factored: MetricFactors, scales: Floats, table: NDArray[Any], group: int) -> int:
    """Counts weights beyond their grid when their turn came, from the whole error w - w^ [rows, columns].

    The carried errors e follow from E = e V, all in the factors' order of columns.
    """
    v = torch.from_numpy(factored.feedback)
    e = torch.linalg.solve_triangular(v, torch.from_numpy(error), upper=True, left=False, unitriangular=True)
    allowed = np.repeat(np.abs(scales), group, axis=1)[:, : error.shape[1]] * reach(table.astype(np.float64))
    # The kernel carries float32 sums of as many products as there are columns.
    slack = error.shape[1] * np.finfo(np.float32).eps * (np.abs(error).max(initial=0) + allowed)
    return int((np.abs(e.numpy()) > allowed + slack).sum())


def reach(table: Doubles) -> float:
    """Half the widest gap between levels; of points [2, count], the largest radius of a circle between three of them.

    No weight, or pair of weights, between levels is farther than that from one.
    """
    if table.ndim == 2:
        return _largest_circle(table)
    return float(np.diff(table).max()) / 2 if len(table) > 1 else 0.0


def _largest_circle(points: Doubles) -> float:
    """Returns the largest circumradius abc / 4 area of the Delaunay triangles of points [2, count]."""
    corners = points.T[Delaunay(points.T).simplices]
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    twice_areas = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])
    return float((sides.prod(axis=1) / (2 * twice_areas)).max())


@cache
def _spread_over_hull(points: bytes) -> float:
    """Half the mean squared distance to the nearest of points [2, count], over a fine mesh of their hull."""
    corners = np.frombuffer(points).reshape(2, -1).T
    mesh = np.stack(np.meshgrid(*np.linspace(corners.min(axis=0), corners.max(axis=0), MESH).T), axis=-1).reshape(-1, 2)
    inside = mesh[Delaunay(corners).find_simplex(mesh) >= 0]
    return float(np.square(inside[:, None] - corners).sum(axis=2).min(axis=1).mean()) / 2


def in_matrix_order(factored: MetricFactors) -> Doubles:
    """D for the columns as they lie in the matrix."""
    d = factored.conditional.astype(np.float64)
    if factored.order is None:
        return d
    placed = np.empty_like(d)
    placed[factored.order] = d
    return placed


def _shares(layer: Layer) -> Doubles:
    """f_i for the factored metric, in which each term counts with the sum of its rows."""
    whole = layer.whole
    shares = np.zeros(len(layer.matrix))
    for term, everything in zip(layer.terms, whole.terms, strict=True):
        total = float(everything.rows.sum())
        shares = np.maximum(shares, term.rows / total if total > 0 else 0.0)
    return shares


def _variances(table: Doubles) -> Doubles:
    if table.ndim == 2:
        return np.full(table.size, _spread_over_hull(table.tobytes()))
    if len(table) < 2:
        return np.zeros(len(table))
    half = np.diff(table) / 2
    a, c = np.concatenate([half[:1], half]), np.concatenate([half, half[-1:]])
    variances: Doubles = (a**3 + c**3) / (3 * (a + c))
    return variances
