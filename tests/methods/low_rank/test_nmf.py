"""Lee and Seung's theorem: the error never rises; factors stay non-negative; no rank loses to nothing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from mediant.methods.low_rank import Factors
from mediant.methods.low_rank.nmf import Nmf, non_negative, started, updated
from mediant.methods.low_rank.truncated_svd import TruncatedSvd


def error(matrix, found):
    return float(np.square(matrix - found.product()).sum())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_an_update_never_raises_the_error(seed, rank):
    generator = np.random.default_rng(seed)
    matrix = generator.exponential(size=(9, 7)) * (generator.random((9, 7)) < 0.7)
    found = started(matrix, rank) if seed % 2 else Factors(generator.random((9, rank)), generator.random((rank, 7)))
    errors = [error(matrix, found)]
    for _ in range(60):
        found = updated(matrix, found)
        errors.append(error(matrix, found))
        assert (found.left >= 0).all()
        assert (found.right >= 0).all()
    # Rounding of a sum of squares over the matrix.
    slack = matrix.size * np.square(matrix).sum() * np.finfo(float).eps
    assert all(b <= a + slack for a, b in pairwise(errors))
    # The start by singular values is optimal already where the rank is 1.
    assert errors[-1] < errors[0] or (seed % 2 and rank == 1)


def test_a_step_too_far_would_be_seen():
    """Squaring the ratio is not the update of the theorem: the error rises within a few steps."""
    generator = np.random.default_rng(0)
    matrix, found = generator.random((6, 5)), Factors(generator.random((6, 2)), generator.random((2, 5)))
    errors = []
    for _ in range(10):
        a, b = found
        b = b * ((a.T @ matrix) / (a.T @ a @ b)) ** 3
        found = Factors(a * ((matrix @ b.T) / (a @ (b @ b.T))) ** 3, b)
        errors.append(error(matrix, found))
    assert any(b > a for a, b in pairwise(errors))


def test_a_product_of_non_negative_factors_is_found_again():
    generator = np.random.default_rng(1)
    matrix = generator.random((8, 2)) @ generator.random((2, 6))
    assert error(matrix, non_negative(matrix, 2, 3000)) < 1e-4 * np.square(matrix).sum()


def test_it_is_never_better_than_the_singular_values():
    generator = np.random.default_rng(2)
    for _ in range(5):
        matrix = generator.standard_normal((8, 6))
        for rank in (2, 4):
            best = error(matrix, TruncatedSvd().factors(matrix, rank))
            assert error(matrix, Nmf().factors(matrix, rank)) >= best * (1 - 1e-12)


def test_signs_are_split():
    matrix = np.random.default_rng(3).standard_normal((8, 6))
    found = Nmf().factors(matrix, 4)
    assert found.left.shape == (8, 4)
    assert found.right.shape == (4, 6)
    assert (found.left >= 0).all()
    signs = [np.unique(np.sign(row[row != 0])) for row in found.right]
    assert all(len(s) == 1 for s in signs)
    assert {int(s[0]) for s in signs} == {-1, 1}
    assert error(matrix, found) < np.square(matrix).sum()


@pytest.mark.parametrize("sign", [1, -1])
def test_one_sign_takes_the_whole_rank(sign):
    matrix = sign * np.random.default_rng(4).random((5, 4))
    assert error(matrix, Nmf(500).factors(matrix, 4)) < error(matrix, Nmf(500).factors(matrix, 1))
    assert np.isfinite(Nmf().factors(np.zeros((3, 3)), 2).product()).all()


def test_weights_shift_the_error_to_what_counts_less():
    generator = np.random.default_rng(5)
    matrix = generator.random((10, 8))
    h = np.where(np.arange(8) < 4, 100.0, 0.01)
    plain, weighted = Nmf(300).factors(matrix, 2), Nmf(300).factors(matrix, 2, metric=np.diag(h))
    cost = [float((np.square(matrix - f.product()) * h).sum()) for f in (plain, weighted)]
    assert cost[1] < cost[0]
