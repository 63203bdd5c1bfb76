"""Babai against its reference, against exact closest vectors, and against what theory says."""

from __future__ import annotations

import numpy as np
import pytest

from mediant.kernels import babai as module
from mediant.kernels.babai import babai
from mediant.kernels.nearest_code import nearest_code
from mediant.kernels.scale_codes import ScaleForm
from mediant.statistics.metric_factors import damped, factorize

TABLE = np.float32([-2.1, -1.3, -0.7, -0.2, 0.2, 0.7, 1.3, 2.1])
# More rows than are taken together, and strips, chunks and groups that end in the midst of one another.
ODD = (37, 175, 48)

GRIDS = {
    "affine": np.arange(-4, 4, dtype=np.float32),
    "half": np.arange(4, dtype=np.float32) - np.float32(1.5),
    "table": TABLE,
    "one level": np.float32([0.5]),
    "eight bits": np.arange(256, dtype=np.float32) - 128,
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("rows", "columns", "group"), [(1, 1, 4), (3, 7, 4), (5, 33, 16), (9, 40, 8), (4, 12, 64), ODD]
)
@pytest.mark.parametrize("form", [ScaleForm(3, signed=False, steps=4), ScaleForm(6)], ids=str)
def test_native_is_the_reference_to_the_bit(grid, rows, columns, group, form, monkeypatch, problem):
    w, metric = problem(rows, columns, seed=rows)
    w[0, 0] = 0
    levels, basis = GRIDS[grid], factorize(metric)
    native = babai(w, basis, levels, group, form)
    monkeypatch.setattr(module, "native", None)
    reference = babai(w, basis, levels, group, form)
    np.testing.assert_array_equal(native.row_scales, reference.row_scales)
    np.testing.assert_array_equal(native.scale_codes, reference.scale_codes)
    np.testing.assert_array_equal(native.codes, reference.codes)


def test_threads_do_not_change_a_bit(monkeypatch, problem):
    w, metric = problem(23, 48)
    results = []
    for count in ("1", "3"):
        monkeypatch.setenv("MEDIANT_THREADS", count)
        results.append(babai(w, factorize(metric), TABLE, 16, ScaleForm(5)))
    np.testing.assert_array_equal(results[0].codes, results[1].codes)


def test_a_diagonal_metric_gives_nearest_rounding(problem):
    w, _ = problem(8, 24)
    metric = np.diag(np.random.default_rng(1).uniform(0.5, 2, 24))
    form = ScaleForm(6)
    result = babai(w, factorize(metric), TABLE, 24, form)
    scale = result.scales(form)[:, 0]
    expected = nearest_code(w, scale, np.zeros(8, np.float32), TABLE.astype(np.float64))
    np.testing.assert_array_equal(result.codes, expected)


def gptq(w, metric, scale, levels):
    """Frantar et al. 2022, section 3, in float64 and without factors: the inverse is updated column by column."""
    w, inverse = w.astype(np.float64).copy(), np.linalg.inv(metric)
    codes = np.empty(w.shape, np.int64)
    for j in range(w.shape[1]):
        codes[:, j] = np.abs(w[:, j, None] - scale[:, None] * levels).argmin(axis=1)
        error = (w[:, j] - scale * levels[codes[:, j]]) / inverse[j, j]
        w -= error[:, None] * inverse[j]
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        inverse[j, :] = inverse[:, j] = 0
    return codes


def nearest_plane(w, metric, scale, levels):
    """Babai 1986: from the last basis vector to the first, the plane nearest to what is left of the target.

    The lattice is spanned by the columns of the Cholesky factor's transpose B, B^T B = metric, and w is B w in it.
    """
    basis = np.linalg.cholesky(metric).T
    q, r = np.linalg.qr(basis)
    codes = np.empty(w.shape, np.int64)
    for row in range(len(w)):
        left = q.T @ basis @ w[row].astype(np.float64)
        for j in reversed(range(w.shape[1])):
            codes[row, j] = np.abs(left[j] / r[j, j] - scale[row] * levels).argmin()
            left -= r[:, j] * scale[row] * levels[codes[row, j]]
    return codes


@pytest.mark.parametrize("seed", range(20))
def test_gptq_from_the_last_column_to_the_first_is_babais_nearest_plane(seed, problem):
    """Three independent ways to the same codes (arXiv 2507.18553, theorem 4), at the scales that ours found."""
    w, metric = problem(5, 12, seed)
    form = ScaleForm(6)
    ours = babai(w, factorize(metric), TABLE, 12, form)
    scale, levels = ours.scales(form)[:, 0].astype(np.float64), TABLE.astype(np.float64)
    np.testing.assert_array_equal(gptq(w, metric, scale, levels), ours.codes)
    backwards = slice(None, None, -1)
    back_to_front = gptq(w[:, backwards], metric[backwards, backwards], scale, levels)[:, backwards]
    plane = nearest_plane(w, metric, scale, levels)
    np.testing.assert_array_equal(back_to_front, plane)
    flipped = nearest_plane(w[:, backwards], metric[backwards, backwards], scale, levels)[:, backwards]
    np.testing.assert_array_equal(flipped, ours.codes)


def test_the_comparison_with_the_nearest_plane_sees_the_order(problem):
    differ = 0
    for seed in range(20):
        w, metric = problem(5, 12, seed)
        scale = np.full(5, 0.8)
        differ += not np.array_equal(
            gptq(w, metric, scale, TABLE.astype(np.float64)), nearest_plane(w, metric, scale, TABLE.astype(np.float64))
        )
    assert differ > 0


def test_the_error_is_the_sum_of_conditional_errors(problem, decoded, error):
    """sum_j d_j e_j^2 with the errors that were carried on equals (w^ - w) M (w^ - w)^T (arXiv 2507.18553)."""
    w, metric = problem(6, 20)
    basis, form = factorize(metric), ScaleForm(6)
    result = babai(w, basis, TABLE, 20, form)
    value = decoded(result, TABLE, 20, form).astype(np.float64)
    left, total = w.astype(np.float64).copy(), np.zeros(6)
    for j in range(20):
        e = left[:, j] - value[:, j]
        total += basis.conditional[j] * e**2
        left[:, j + 1 :] -= e[:, None] * basis.feedback[j, j + 1 :]
    tolerance = 20 * np.linalg.cond(metric) * np.finfo(np.float32).eps
    np.testing.assert_allclose(total, error(w, result, metric, TABLE, 20, form), rtol=tolerance)


def test_far_better_than_nearest_rounding_on_correlated_inputs(problem, error):
    w, metric = problem(32, 48)
    form = ScaleForm(6)
    with_metric = babai(w, factorize(metric), TABLE, 48, form)
    without = babai(w, factorize(np.eye(48)), TABLE, 48, form)
    gain = error(w, with_metric, metric, TABLE, 48, form).sum() / error(w, without, metric, TABLE, 48, form).sum()
    assert gain < 0.7


def test_rows_of_zeros_and_dead_inputs(problem, decoded):
    w, metric = problem(3, 8)
    w[1] = 0
    metric[2] = metric[:, 2] = 0
    result = babai(w, factorize(damped(metric, 0.01)), np.float32([-1, 0, 1]), 4, ScaleForm(4))
    assert not decoded(result, np.float32([-1, 0, 1]), 4, ScaleForm(4))[1].any()


@pytest.mark.parametrize("metric", [np.zeros((3, 3)), np.diag([1.0, -1, 1])])
def test_a_metric_that_is_not_one_is_refused(metric):
    with pytest.raises(ValueError, match="positive definite"):
        factorize(metric)


def test_arguments_are_checked(problem):
    w, metric = problem(2, 4)
    with pytest.raises(ValueError, match="columns"):
        babai(w[:, :3], factorize(metric), TABLE, 4, ScaleForm(4))
    with pytest.raises(ValueError, match="16"):
        babai(w, factorize(metric), TABLE, 4, ScaleForm(16))
