"""The rotation is orthogonal, undoes itself, mixes, and is what its formula says."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from mediant.kernels import native
from mediant.kernels import rotation as module
from mediant.kernels.rotation import hadamard_reference, rotate, rotate_back, rotate_metric, signs

needs_native = pytest.mark.skipif(native is None, reason="the native kernels were not built")

SIZES = [1, 2, 3, 6, 8, 12, 35, 64, 96, 576]


@pytest.mark.parametrize("columns", SIZES)
def test_orthogonal_and_its_own_inverse(columns):
    q = rotate(np.eye(columns), 3)
    tolerance = 64 * np.finfo(np.float64).eps
    np.testing.assert_allclose(q @ q.T, np.eye(columns), atol=tolerance)
    np.testing.assert_allclose(rotate_back(q, 3), np.eye(columns), atol=tolerance)


@pytest.mark.parametrize("columns", SIZES)
def test_equals_the_product_of_its_factors(columns):
    power = columns & -columns
    odd = columns // power
    blocks = np.kron(np.eye(odd), scipy.linalg.hadamard(power) / np.sqrt(power))
    q = np.diag(signs(columns, 5).astype(float)) @ blocks
    if odd > 1:
        read = np.arange(columns).reshape(odd, power).T.ravel()
        q = q[:, read] @ blocks
    np.testing.assert_allclose(rotate(np.eye(columns), 5), q, atol=64 * np.finfo(np.float64).eps)


def test_a_single_outlier_is_spread_over_all_columns():
    row = np.zeros((1, 576))
    row[0, 100] = 1
    assert np.abs(rotate(row, 0)).max() < 0.2


def test_metric_measures_the_same_error():
    generator = np.random.default_rng(0)
    error = generator.normal(size=(3, 24))
    factor = generator.normal(size=(24, 24))
    metric = factor @ factor.T
    turned = rotate(error, 2)
    np.testing.assert_allclose(
        np.einsum("ij,jk,ik->i", turned, rotate_metric(metric, 2), turned),
        np.einsum("ij,jk,ik->i", error, metric, error),
        rtol=1e-12,
    )


def test_seeds_differ_and_signs_are_balanced():
    assert (signs(4096, 0) != signs(4096, 1)).mean() == pytest.approx(0.5, abs=4 * 0.5 / 64)
    assert abs(signs(4096, 7).astype(int).sum()) < 4 * 64


def test_float32_stays_float32():
    assert rotate(np.ones((2, 12), np.float32), 0).dtype == np.float32


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (3, 1), (5, 2), (2, 4), (3, 8), (7, 64), (2, 1024)])
def test_native_equals_reference(shape, dtype):
    x = np.random.default_rng(1).standard_t(2, shape).astype(dtype)
    expected = hadamard_reference(x)
    for threads in (1, 3):
        found = np.full(shape, np.nan, dtype)
        native.hadamard(x, found, threads)
        np.testing.assert_array_equal(found, expected)


@needs_native
def test_a_sum_in_another_order_would_be_seen():
    x = np.random.default_rng(2).standard_normal((4, 64)).astype(np.float32)
    assert (hadamard_reference(x) != x @ (scipy.linalg.hadamard(64) / 8).astype(np.float32)).any()


def test_without_native_kernels_the_result_is_the_same(monkeypatch):
    x = np.random.default_rng(3).standard_normal((6, 96))[:, ::2]  # not contiguous
    expected = rotate(x, 4)
    monkeypatch.setattr(module, "native", None)
    np.testing.assert_array_equal(rotate(x, 4), expected)
