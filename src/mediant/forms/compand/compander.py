"""The companding quantizer of CVXQ: cells that are equal once the weights' distribution has been made flat.

For a weight w of a group with scale S and centre mu, at b bits:

    u = 1/2 (1 + sgn(w - mu) (1 - exp(-sqrt 2 |w - mu| / (3 S)))),   code = floor(2^b u),

decoded at the middle of its cell (companded_matrix.py). The cube root of a Laplacian density gives this curve,
which is best where cells are small (Bennett). With few cells it is far from best: with S the standard deviation of a
Gaussian it errs by 0.308 of the variance at 2 bits, where a Lloyd-Max table errs by 0.1175. So S and mu are searched on
grids, each in one dimension, as the source does.

Args: weights float32 [rows, columns], one group a column; bit widths [columns]. S and mu are in the unit of the
weights.

A search on some of the rows would not do: the one weight by which a neuron writes a massive activation is far outside
all others of its column, and a scale found without it cuts it off.

Source: Young 2024 (arXiv 2409.02026), section 3.3 and equation 8. Deviations: (1) the grids are ours, as the source
does not state them; (2) S and mu are bfloat16 where they are chosen, as they are stored.

Cost: one exponential a weight for each of sixteen candidates.

>>> w = torch.tensor([[0.0], [0.9], [-3.0]])
>>> codes(w, torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([1])).T.tolist()
[[1, 1, 0]]
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from mediant.forms.compand.companded_matrix import LEVELS, CompandedMatrix, rows_of
from mediant.kernels.bfloat16 import from_float32, to_float32

REFERENCES = (
    "Young 2024, Foundations of Large Language Model Compression -- Part 1: Weight Quantization, arXiv:2409.02026",
)
NEEDS = ("gradients",)

# Candidates for S in standard deviations, and for mu in S beside the mean.
STRETCHES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.2, 1.6, 2.2, 3.0)
SHIFTS = (-0.3, -0.15, 0.15, 0.3)

Bytes = NDArray[np.uint8]

_LEVELS = torch.from_numpy(LEVELS)


def codes(weights: torch.Tensor, scales: torch.Tensor, centres: torch.Tensor, bit_widths: torch.Tensor) -> torch.Tensor:
    """Returns codes [rows, columns] int64 of weights [rows, columns]; 0 where the bit width is 0."""
    t = (weights - centres) / torch.where(scales > 0, scales, torch.ones_like(scales))
    u = 0.5 + 0.5 * t.sign() * (1 - torch.exp(-math.sqrt(2) / 3 * t.abs()))
    cells = torch.exp2(bit_widths.float())
    return torch.minimum((u * cells).floor(), cells - 1).clamp_(min=0).long()


def decoded(found: torch.Tensor, scales: torch.Tensor, centres: torch.Tensor, bit_widths: torch.Tensor) -> torch.Tensor:
    """Returns the values of codes [rows, columns]."""
    return centres + scales * _LEVELS[bit_widths.long(), found]


def fit(weights: torch.Tensor, bit_widths: torch.Tensor, search: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """S and mu of every column; without `search` the standard deviation and the mean."""
    mean, deviation = weights.mean(dim=0), weights.std(dim=0, correction=0)
    best = stored(deviation), stored(mean)
    if not search:
        return best
    least = _error(weights, *best, bit_widths)
    for stretch in STRETCHES:
        best, least = _better(weights, bit_widths, best, least, (stored(stretch * deviation), best[1]))
    for shift in SHIFTS:
        best, least = _better(weights, bit_widths, best, least, (best[0], stored(mean + shift * best[0])))
    return best


Pair = tuple[torch.Tensor, torch.Tensor]


def _better(
    weights: torch.Tensor, bit_widths: torch.Tensor, best: Pair, least: torch.Tensor, other: Pair
) -> tuple[Pair, torch.Tensor]:
    """For every column the pair with less error, and its error."""
    error = _error(weights, *other, bit_widths)
    better = error < least
    return (torch.where(better, other[0], best[0]), torch.where(better, other[1], best[1])), torch.minimum(error, least)


def _error(
    weights: torch.Tensor, scales: torch.Tensor, centres: torch.Tensor, bit_widths: torch.Tensor
) -> torch.Tensor:
    found = decoded(codes(weights, scales, centres, bit_widths), scales, centres, bit_widths)
    return (found - weights).square().sum(dim=0)


def stored(values: torch.Tensor) -> torch.Tensor:
    """Rounds values to bfloat16, in which they are stored."""
    exact: NDArray[np.float32] = to_float32(from_float32(np.ascontiguousarray(values.numpy(), np.float32)))
    return torch.from_numpy(exact)


def compand(matrix: NDArray[np.float32], of_rows: Bytes, bit_widths: Bytes, search: bool = True) -> CompandedMatrix:
    """Returns codes of a matrix for given bit widths [clusters, columns]."""
    found = np.empty(matrix.shape, np.uint8)
    scales, centres = np.empty(bit_widths.shape, np.float32), np.empty(bit_widths.shape, np.float32)
    for cluster, rows in enumerate(rows_of(of_rows, len(bit_widths))):
        weights, bits = torch.from_numpy(matrix[rows]), torch.from_numpy(bit_widths[cluster])
        scale, centre = fit(weights, bits, search)
        found[rows] = codes(weights, scale, centre, bits).numpy()
        scales[cluster], centres[cluster] = scale.numpy(), centre.numpy()
    return CompandedMatrix(found, of_rows, bit_widths, scales, centres)
