"""Babai against its reference, against exact closest vectors, and against what theory says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mediant.kernels import babai as module
from mediant.kernels.babai import babai
from mediant.kernels.nearest_code import nearest_code
from mediant.kernels.scale_codes import ScaleForm
from mediant.statistics.lattice import damped, lattice

TABLE = np.float32([-2.1, -1.3, -0.7, -0.2, 0.2, 0.7, 1.3, 2.1])
GRIDS = {
    "affine": np.arange(-4, 4, dtype=np.float32),
    "half": np.arange(4, dtype=np.float32) - np.float32(1.5),
    "table": TABLE,
    "one level": np.float32([0.5]),
    "eight bits": np.arange(256, dtype=np.float32) - 128,
}


def problem(rows, columns, seed=0, spread=1.0):
    generator = np.random.default_rng(seed)
    factor = generator.normal(size=(columns, 2 * columns)) * np.exp(spread * generator.normal(size=(columns, 1)))
    mixing = generator.normal(size=(columns, columns)) / np.sqrt(columns)
    inputs = (np.eye(columns) + mixing) @ factor
    metric = damped(inputs @ inputs.T / (2 * columns), 0.01)
    return generator.normal(size=(rows, columns)).astype(np.float32), metric


def decoded(result, levels, group, form):
    factors = module._factors(form)
    scale = result.row_scales[:, None] * factors[result.scale_codes]
    return np.repeat(scale, group, axis=1)[:, : result.codes.shape[1]] * levels[result.codes]


def error(w, result, metric, levels, group, form):
    difference = decoded(result, levels, group, form).astype(np.float64) - w
    return np.einsum("ij,jk,ik->i", difference, metric, difference)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("rows", "columns", "group"), [(1, 1, 4), (3, 7, 4), (5, 33, 16), (9, 40, 8), (4, 12, 64)])
@pytest.mark.parametrize("form", [ScaleForm(3, signed=False, steps=4), ScaleForm(6)], ids=str)
def test_native_is_the_reference_to_the_bit(grid, rows, columns, group, form, monkeypatch):
    w, metric = problem(rows, columns, seed=rows)
    w[0, 0] = 0
    levels, basis = GRIDS[grid], lattice(metric)
    for sweeps in (0, 2):
        native = babai(w, basis, levels, group, form, sweeps)
        with monkeypatch.context() as patch:
            patch.setattr(module, "native", None)
            reference = babai(w, basis, levels, group, form, sweeps)
        np.testing.assert_array_equal(native.row_scales, reference.row_scales)
        np.testing.assert_array_equal(native.scale_codes, reference.scale_codes)
        np.testing.assert_array_equal(native.codes, reference.codes)


def test_threads_do_not_change_a_bit(monkeypatch):
    w, metric = problem(23, 48)
    results = []
    for count in ("1", "3"):
        monkeypatch.setenv("MEDIANT_THREADS", count)
        results.append(babai(w, lattice(metric), TABLE, 16, ScaleForm(5), 2))
    np.testing.assert_array_equal(results[0].codes, results[1].codes)


def test_a_diagonal_metric_gives_nearest_rounding():
    w, _ = problem(8, 24)
    metric = np.diag(np.random.default_rng(1).uniform(0.5, 2, 24))
    form = ScaleForm(6)
    result = babai(w, lattice(metric), TABLE, 24, form, 3)
    scale = result.row_scales * module._factors(form)[result.scale_codes[:, 0]]
    expected = nearest_code(w, scale.astype(np.float32), np.zeros(8, np.float32), TABLE.astype(np.float64))
    np.testing.assert_array_equal(result.codes, expected)


def test_the_error_is_the_sum_of_conditional_errors():
    """sum_j d_j e_j^2 with the errors that were carried on equals (w^ - w) M (w^ - w)^T (arXiv 2507.18553)."""
    w, metric = problem(6, 20)
    basis, form = lattice(metric), ScaleForm(6)
    result = babai(w, basis, TABLE, 20, form, 0)
    value = decoded(result, TABLE, 20, form).astype(np.float64)
    left, total = w.astype(np.float64).copy(), np.zeros(6)
    for j in range(20):
        e = left[:, j] - value[:, j]
        total += basis.conditional[j] * e**2
        left[:, j + 1 :] -= e[:, None] * basis.feedback[j, j + 1 :]
    tolerance = 20 * np.linalg.cond(metric) * np.finfo(np.float32).eps
    np.testing.assert_allclose(total, error(w, result, metric, TABLE, 20, form), rtol=tolerance)


def test_descent_never_raises_the_error_and_ends_where_no_single_change_helps():
    w, metric = problem(12, 24)
    form, basis = ScaleForm(6), lattice(metric)
    errors = [error(w, babai(w, basis, TABLE, 24, form, s), metric, TABLE, 24, form) for s in (0, 1, 2, 20)]
    for worse, better in itertools.pairwise(errors):
        assert (better <= worse * (1 + 1e-5)).all()
    result = babai(w, basis, TABLE, 24, form, 20)
    for row, column, code in itertools.product(range(12), range(24), range(len(TABLE))):
        changed = result.codes.copy()
        changed[row, column] = code
        other = error(w, module.Rounded(changed, result.row_scales, result.scale_codes), metric, TABLE, 24, form)
        assert other[row] >= errors[-1][row] * (1 - 1e-5)


def test_against_the_exact_closest_vector():
    """On 4 dimensions with the scale it chose: never better than the best codes, and mostly close."""
    form, ratios = ScaleForm(6), []
    for seed in range(40):
        w, metric = problem(1, 4, seed)
        result = babai(w, lattice(metric), TABLE, 4, form, 2)
        scale = result.row_scales[0] * module._factors(form)[result.scale_codes[0, 0]]
        points = np.array(list(itertools.product(scale * TABLE, repeat=4))) - w
        best = np.einsum("ij,jk,ik->i", points, metric, points).min()
        found = error(w, result, metric, TABLE, 4, form)[0]
        assert found >= best * (1 - 1e-4)
        ratios.append(found / best)
    assert np.median(ratios) < 1.5


def test_far_better_than_nearest_rounding_on_correlated_inputs():
    w, metric = problem(32, 48)
    form = ScaleForm(6)
    with_metric = babai(w, lattice(metric), TABLE, 48, form, 2)
    without = babai(w, lattice(np.eye(48)), TABLE, 48, form, 0)
    gain = error(w, with_metric, metric, TABLE, 48, form).sum() / error(w, without, metric, TABLE, 48, form).sum()
    assert gain < 0.7


def test_rows_of_zeros_and_dead_inputs():
    w, metric = problem(3, 8)
    w[1] = 0
    metric[2] = metric[:, 2] = 0
    result = babai(w, lattice(damped(metric, 0.01)), np.float32([-1, 0, 1]), 4, ScaleForm(4), 1)
    assert not decoded(result, np.float32([-1, 0, 1]), 4, ScaleForm(4))[1].any()


@pytest.mark.parametrize("metric", [np.zeros((3, 3)), np.diag([1.0, -1, 1])])
def test_a_metric_that_is_not_one_is_refused(metric):
    with pytest.raises(ValueError, match="positive definite"):
        lattice(metric)


def test_arguments_are_checked():
    w, metric = problem(2, 4)
    with pytest.raises(ValueError, match="columns"):
        babai(w[:, :3], lattice(metric), TABLE, 4, ScaleForm(4), 0)
    with pytest.raises(ValueError, match="16"):
        babai(w, lattice(metric), TABLE, 4, ScaleForm(16), 0)
