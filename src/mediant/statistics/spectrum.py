"""Singular values and Fourier energy of a matrix: what low rank or smoothness there is to exploit.

Singular values come from the Gram matrix of the smaller side in float64, which needs one pass and little
memory. Squaring resolves singular values down to √(k ε) of the largest, k the smaller side and ε = 2^-52;
that is finer than the rounding of float32 weights, and what lies below is set to 0.

Sources:
    Roy, Vetterli: The effective rank, EUSIPCO 2007, eq. 1-3.
    Rudelson, Vershynin: Sampling from large matrices, JACM 54(4), 2007 (stable rank).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft

from mediant.values import Array

BLOCK = 1 << 20
LOW_BAND = 1 / 8

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Spectrum:
    """Spectral figures of one matrix [m, n].

    `singular_values` are descending, min(m, n) of them. `rank_90` and `rank_99` are the fewest singular
    values that hold 90 and 99 % of the energy ||W||_F^2. `smoothness_inputs` is the energy in the lowest
    eighth of the frequencies along a row (neighbouring inputs) over what white noise has there;
    `smoothness_outputs` the same down a column. 1 means no structure; an eighth of the frequencies bounds
    it by about 8.
    """

    singular_values: Float
    effective_rank: float
    stable_rank: float
    rank_90: int
    rank_99: int
    smoothness_inputs: float
    smoothness_outputs: float


def spectrum(matrix: Array) -> Spectrum:
    """Returns all spectral figures of a matrix [m, n] of finite values; time O(m n min(m, n)).

    >>> spectrum(np.eye(4)).effective_rank
    4.0
    """
    values = singular_values(matrix)
    return Spectrum(
        singular_values=values,
        effective_rank=effective_rank(values),
        stable_rank=stable_rank(values),
        rank_90=energy_rank(values, 0.90),
        rank_99=energy_rank(values, 0.99),
        smoothness_inputs=smoothness(power(matrix), matrix.shape[1]),
        smoothness_outputs=smoothness(power(matrix.T), matrix.shape[0]),
    )


def singular_values(matrix: Array) -> Float:
    """Singular values of [m, n] in descending order, float64 [min(m, n)]."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    gram = torch.zeros((tall.shape[1], tall.shape[1]), dtype=torch.float64)
    for block in _row_blocks(tall):
        rows = torch.from_numpy(block)
        gram.addmm_(rows.T, rows)
    squares: Float = torch.linalg.eigvalsh(gram).numpy()[::-1].copy()
    squares[squares < squares[:1] * (squares.size * np.finfo(np.float64).eps)] = 0
    return np.sqrt(np.maximum(squares, 0))


def effective_rank(values: Float) -> float:
    """Returns the exponential of the entropy of σ_k / Σσ (Roy and Vetterli 2007); 0 for a zero matrix."""
    positive = values[values > 0]
    if not positive.size:
        return 0.0
    p = positive / positive.sum()
    return float(np.exp(-(p @ np.log(p))))


def stable_rank(values: Float) -> float:
    """||W||_F^2 / σ_1^2; 0 for a zero matrix."""
    return float((values @ values) / values[0] ** 2) if values.size and values[0] > 0 else 0.0


def energy_rank(values: Float, share: float) -> int:
    """Returns the fewest leading singular values whose squares hold `share` of their sum; 0 for a zero matrix."""
    energy = np.cumsum(values**2)
    if not energy.size or energy[-1] == 0:
        return 0
    return int(np.searchsorted(energy, share * energy[-1])) + 1


def power(matrix: Array) -> Float:
    """Energy of the rows of [m, n] by frequency along the row, float64 [n // 2 + 1].

    Both signs of a frequency count in one entry and the transform is unitary, so the sum is ||W||_F^2
    (Parseval).
    """
    n = matrix.shape[1]
    total = np.zeros(n // 2 + 1)
    for rows in _row_blocks(matrix):
        waves = fft.rfft(rows, axis=1, norm="ortho")
        total += (waves.real**2 + waves.imag**2).sum(axis=0)
    total[1 : (n + 1) // 2] *= 2
    return total


def smoothness(energy: Float, n: int) -> float:
    """Share of the energy in the lowest eighth of the frequencies, over the share that white noise has there.

    `energy` is the `power` of rows of length `n`. The constant part of a row counts as its lowest
    frequency. NaN for a zero matrix.
    """
    highest = int(LOW_BAND * (n // 2))
    white = (1 + 2 * highest) / n
    total = float(energy.sum())
    return float(energy[: highest + 1].sum()) / total / white if total > 0 else float("nan")


def _row_blocks(matrix: Array) -> Iterator[Float]:
    step = max(1, BLOCK // max(1, matrix.shape[1]))
    for start in range(0, matrix.shape[0], step):
        yield np.ascontiguousarray(matrix[start : start + step], dtype=np.float64)
