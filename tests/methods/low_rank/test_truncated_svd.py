"""Eckart and Young: nothing of that rank is closer, and what remains are the singular values left out."""

from __future__ import annotations

import numpy as np
import pytest

from mediant.methods.low_rank import by_singular_values
from mediant.methods.low_rank.truncated_svd import TruncatedSvd

SHAPES = [(6, 4), (4, 6), (5, 5), (1, 7), (7, 1)]


def matrix_of(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def alternated(matrix, rank, seed, rounds=300):
    """A local optimum by alternating least squares from a random start: another way to the best factors."""
    b = np.random.default_rng(seed).standard_normal((rank, matrix.shape[1]))
    for _ in range(rounds):
        a = matrix @ np.linalg.pinv(b)
        b = np.linalg.pinv(a) @ matrix
    return a, b


@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_is_that_of_the_singular_values_left_out(shape):
    matrix = matrix_of(shape)
    s = np.linalg.svd(matrix, compute_uv=False)
    for rank in range(1, min(shape) + 1):
        found = TruncatedSvd().factors(matrix, rank)
        assert found.left.shape == (shape[0], rank)
        assert found.right.shape == (rank, shape[1])
        error = np.square(matrix - found.product()).sum()
        # Backward stability of the decomposition: a few times the sizes, the squared norm and epsilon.
        assert abs(error - np.square(s[rank:]).sum()) <= 8 * sum(shape) * np.square(s).sum() * np.finfo(float).eps


@pytest.mark.parametrize("seed", range(5))
def test_no_factors_found_otherwise_are_closer(seed):
    matrix = matrix_of((7, 5), seed)
    for rank in (1, 2, 3):
        best = np.square(matrix - TruncatedSvd().factors(matrix, rank).product()).sum()
        for start in range(4):
            a, b = alternated(matrix, rank, start)
            assert np.square(matrix - a @ b).sum() >= best * (1 - 1e-12)
        # The comparison can fail: one component less is worse than what alternation reaches.
        assert np.square(matrix - TruncatedSvd().factors(matrix, rank).first(rank - 1).product()).sum() > best


def test_smaller_ranks_are_the_first_components():
    matrix = matrix_of((6, 5))
    whole = by_singular_values(matrix, 5)
    for rank in range(1, 5):
        for one, two in zip(whole.first(rank), by_singular_values(matrix, rank), strict=True):
            assert np.array_equal(one, two)


def test_both_sides_have_alike_magnitudes():
    found = TruncatedSvd().factors(1e6 * matrix_of((6, 5)), 3)
    np.testing.assert_allclose(np.square(found.left).sum(0), np.square(found.right).sum(1), rtol=1e-12)


def test_weights_are_not_looked_at():
    matrix = matrix_of((6, 5))
    plain = TruncatedSvd().factors(matrix, 2)
    weighted = TruncatedSvd().factors(matrix, 2, np.arange(6.0), np.diag(np.arange(5.0)))
    assert np.array_equal(plain.left, weighted.left)


def test_a_matrix_of_zeros():
    assert not TruncatedSvd().factors(np.zeros((3, 4)), 2).product().any()
