"""Optimal in the metric: against alternating weighted least squares, against the plain decomposition, and by theory."""

from __future__ import annotations

import numpy as np
import pytest

from mediant.methods.low_rank.residual import Residual
from mediant.methods.low_rank.truncated_svd import TruncatedSvd
from mediant.methods.low_rank.whitened_svd import LEAST_ROW, WhitenedSvd, Whitening, root_weights

PAPER = WhitenedSvd(damping=0, weigh_rows=False)
OURS = WhitenedSvd(damping=0)


def case(rows, columns, seed):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((4 * columns, columns)) * np.exp(generator.standard_normal(columns))
    x @= generator.standard_normal((columns, columns))
    return generator.standard_normal((rows, columns)), np.exp(generator.standard_normal(rows)), x.T @ x / len(x)


def loss(error, rows, metric):
    return float((rows * ((error @ metric) * error).sum(1)).sum())


def alternated(matrix, rank, rows, metric, seed, rounds=400):
    """Weighted alternating least squares: A given B needs no row weights, B given A no metric."""
    f = np.diag(rows)
    b = np.random.default_rng(seed).standard_normal((rank, matrix.shape[1]))
    for _ in range(rounds):
        a = matrix @ metric @ b.T @ np.linalg.pinv(b @ metric @ b.T)
        b = np.linalg.pinv(a.T @ f @ a) @ a.T @ f @ matrix
    return a @ b


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_nothing_found_otherwise_costs_less(seed, rank):
    matrix, rows, metric = case(7, 6, seed)
    for method, weights in ((OURS, rows), (PAPER, np.ones(7))):
        best = loss(matrix - method.factors(matrix, rank, rows, metric).product(), weights, metric)
        others = [loss(matrix - alternated(matrix, rank, weights, metric, s), weights, metric) for s in range(3)]
        assert min(others) >= best * (1 - 1e-9)
        # Alternation comes near, so that the comparison means something, and ignoring the metric costs more.
        assert min(others) < 1.5 * best
        assert loss(matrix - TruncatedSvd().factors(matrix, rank).product(), weights, metric) > best


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_sum_of_squared_singular_values_left_out(seed):
    matrix, rows, metric = case(8, 5, seed)
    whitened = np.sqrt(rows)[:, None] * matrix @ np.linalg.cholesky(metric)
    s = np.linalg.svd(whitened, compute_uv=False)
    for rank in range(1, 6):
        found = loss(matrix - OURS.factors(matrix, rank, rows, metric).product(), rows, metric)
        # The triangular solve loses as many digits as the metric's condition has.
        tolerance = 64 * np.linalg.cond(metric) * np.square(s).sum() * np.finfo(float).eps
        assert abs(found - np.square(s[rank:]).sum()) <= tolerance


def test_an_identity_is_the_plain_decomposition():
    matrix, _, _ = case(6, 5, 0)
    plain = TruncatedSvd().factors(matrix, 3).product()
    for metric in (None, np.eye(5), np.ones(5), 7 * np.eye(5)):
        np.testing.assert_allclose(OURS.factors(matrix, 3, np.full(6, 2.0), metric).product(), plain, atol=1e-12)


def test_a_diagonal_is_a_matrix_with_that_diagonal():
    matrix, rows, metric = case(6, 5, 1)
    one = OURS.factors(matrix, 2, rows, np.diag(metric).copy()).product()
    two = OURS.factors(matrix, 2, rows, np.diag(np.diag(metric))).product()
    np.testing.assert_allclose(one, two, atol=1e-10)


def test_dead_inputs_and_rows_do_no_harm():
    matrix, rows, metric = case(6, 5, 2)
    metric[2] = metric[:, 2] = 0
    rows[1] = 0
    for rank in (1, 4):
        found = WhitenedSvd().factors(matrix, rank, rows, metric)
        assert np.isfinite(found.product()).all()
    # A whole rank still gives everything back, dead or not.
    np.testing.assert_allclose(WhitenedSvd().factors(matrix, 5, rows, metric).product(), matrix, atol=1e-8)


def test_row_weights_are_shares_with_a_floor():
    np.testing.assert_allclose(root_weights(np.array([1.0, 3.0, 0.0]), 3) ** 2, [0.75, 2.25, LEAST_ROW])
    assert (root_weights(None, 2) == 1).all()
    assert (root_weights(np.zeros(2), 2) == 1).all()


def test_whitening_is_undone():
    matrix, _, metric = case(4, 6, 3)
    whitening = Whitening.of(metric, 6, 0.0)
    np.testing.assert_allclose(whitening.factor @ whitening.factor.T, metric, rtol=1e-12, atol=1e-12 * metric.max())
    np.testing.assert_allclose(whitening.undo(whitening.apply(matrix)), matrix, atol=1e-9)


def test_a_residual_is_fitted_in_the_same_metric():
    matrix, rows, metric = case(6, 5, 4)
    error = matrix - np.rint(matrix)
    one, two = Residual().factors(error, 2, rows, metric), WhitenedSvd().factors(error, 2, rows, metric)
    assert np.array_equal(one.product(), two.product())
