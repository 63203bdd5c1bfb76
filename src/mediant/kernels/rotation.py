"""A random rotation of a matrix's columns that undoes exactly: signs and Hadamard transforms.

Q makes the weights of a row look like draws from one bell curve and spreads a layer's sensitive inputs over all
columns, which suits codes of fixed length (QuaRot, Ashkboos et al. 2024, arXiv 2404.00456; QuIP#, Tseng et al. 2024,
arXiv 2402.04396, section 3). With n = k p columns, p the largest power of two in n, and H the p x p Hadamard matrix
divided by sqrt(p),

    Q = D (I_k x H)                         for k = 1,
    Q = D (I_k x H) T (I_k x H)             otherwise,

D diagonal with random signs and T the permutation that reads a k x p array column by column, so that every block of the
second round has inputs from every block of the first. A matrix with an odd number of columns is only given signs.

Everything is additions and one product at the end, in a fixed order and in the type of the array: the same bits on
every machine and for any number of threads. Cost: 2 log2(p) additions a weight.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import native, threads

# Below this many numbers a thread costs more than it saves.
_NUMBERS_PER_THREAD = 1 << 18
# Of one of the two arrays that a transform goes back and forth between.
CACHED_BYTES = 1 << 18

Real = TypeVar("Real", NDArray[np.float32], NDArray[np.float64])


def rotate(matrix: Real, seed: int) -> Real:
    """Matrix @ Q for a matrix [rows, columns] of float32 or float64; a new array.

    >>> bool(np.allclose(rotate_back(rotate(np.eye(6), 1), 1), np.eye(6)))
    True
    """
    rows, columns = matrix.shape
    power, odd = _factors(columns)
    x = matrix * signs(columns, seed).astype(matrix.dtype)
    x = hadamard(x.reshape(rows * odd, power))
    if odd > 1:
        x = np.ascontiguousarray(x.reshape(rows, odd, power).transpose(0, 2, 1))
        x = hadamard(x.reshape(rows * odd, power))
    return x.reshape(rows, columns)


def rotate_back(matrix: Real, seed: int) -> Real:
    """Matrix @ Q^T, the inverse of `rotate`; a new array."""
    rows, columns = matrix.shape
    power, odd = _factors(columns)
    x = hadamard(matrix.reshape(rows * odd, power))
    if odd > 1:
        x = np.ascontiguousarray(x.reshape(rows, power, odd).transpose(0, 2, 1))
        x = hadamard(x.reshape(rows * odd, power))
    result: Real = x.reshape(rows, columns) * signs(columns, seed).astype(matrix.dtype)
    return result


def rotate_metric(metric: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Q^T M Q: the metric [columns, columns] of a matrix, for the rotated matrix."""
    half = rotate(metric, seed)
    return rotate(np.ascontiguousarray(half.T), seed)


def signs(count: int, seed: int) -> NDArray[np.int8]:
    """+1 or -1 by the top bit of SplitMix64's output number i for the given seed (Steele et al. 2014).

    >>> signs(8, 0).tolist()
    [-1, 1, 1, -1, 1, 1, 1, -1]
    """
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return np.where(z >> np.uint64(63), -1, 1).astype(np.int8)


def _factors(columns: int) -> tuple[int, int]:
    power = columns & -columns
    return power, columns // power


def hadamard(x: Real) -> Real:
    """Hadamard transform of each row [rows, 2^k] of float32 or float64, divided by sqrt(2^k); a new array.

    >>> hadamard(np.array([[3.0, 1.0, 0.0, 0.0]])).tolist()
    [[2.0, 1.0, 2.0, 1.0]]
    """
    if native is None:
        return hadamard_reference(x)
    result = np.empty(x.shape, x.dtype)
    native.hadamard(np.ascontiguousarray(x), result, min(threads(), 1 + x.size // _NUMBERS_PER_THREAD))
    return result


def hadamard_reference(x: Real) -> Real:
    """`hadamard` in NumPy."""
    rows, size = x.shape
    result = np.empty_like(x)
    step = max(1, CACHED_BYTES // (size * x.itemsize))
    for begin in range(0, rows, step):
        result[begin : begin + step] = _hadamard_block(x[begin : begin + step])
    return result


def _hadamard_block(x: NDArray[Any]) -> NDArray[Any]:
    """Transforms rows that fit into a processor's cache; transposed, so that additions run over long stretches."""
    rows, size = x.shape
    here = np.ascontiguousarray(x.T)
    there = np.empty_like(here)
    width = 1
    while width < size:
        pairs, out = (y.reshape(size // (2 * width), 2, width * rows) for y in (here, there))
        np.add(pairs[:, 0], pairs[:, 1], out=out[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=out[:, 1])
        here, there = there, here
        width *= 2
    here *= x.dtype.type(1 / np.sqrt(size))
    return here.T
