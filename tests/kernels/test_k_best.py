"""K-best against its reference, against Babai, and against all grid points."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mediant.kernels import k_best as module
from mediant.kernels.babai import babai
from mediant.kernels.k_best import k_best
from mediant.kernels.scale_codes import ScaleForm
from mediant.statistics.metric_factors import factorize

TABLE = np.float32([-2.1, -1.3, -0.7, -0.2, 0.2, 0.7, 1.3, 2.1])
GRIDS = {"affine": np.arange(-4, 4, dtype=np.float32), "table": TABLE, "one level": np.float32([0.5])}
# The one scale that is not 0 is the row's own, so that whatever the beams do, they share it.
ONE_SCALE = ScaleForm(2, signed=False, steps=1)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("rows", "columns", "group"), [(1, 1, 4), (3, 7, 4), (5, 33, 16), (4, 12, 64)])
@pytest.mark.parametrize("beams", [1, 2, 5])
def test_native_is_the_reference_to_the_bit(grid, rows, columns, group, beams, problem, monkeypatch):
    w, metric = problem(rows, columns, seed=rows)
    w[0, 0] = 0
    arguments = w, factorize(metric), GRIDS[grid], group, ScaleForm(3, signed=False, steps=4), beams
    native = k_best(*arguments)
    monkeypatch.setattr(module, "native", None)
    reference = k_best(*arguments)
    np.testing.assert_array_equal(native.row_scales, reference.row_scales)
    np.testing.assert_array_equal(native.scale_codes, reference.scale_codes)
    np.testing.assert_array_equal(native.codes, reference.codes)


@pytest.mark.parametrize("grid", GRIDS)
def test_one_beam_is_babai(grid, problem):
    for seed in range(5):
        w, metric = problem(9, 40, seed)
        form = ScaleForm(4, signed=False, steps=4)
        one, plain = (f(w, factorize(metric), GRIDS[grid], 8, form, *b) for f, b in ((k_best, (1,)), (babai, ())))
        np.testing.assert_array_equal(one.codes, plain.codes)
        np.testing.assert_array_equal(one.scale_codes, plain.scale_codes)


@pytest.mark.parametrize(("columns", "levels"), [(4, TABLE), (6, TABLE[::2]), (8, np.float32([-1, 0, 1]))])
def test_enough_beams_find_the_closest_vector(columns, levels, problem, error):
    """Against all 4096 or 6561 grid points; every dimension keeps as many beams as its beginnings may need."""
    exact = wrong_with_one = 0
    for seed in range(12):
        w, metric = problem(1, columns, seed)
        found = k_best(w, factorize(metric), levels, columns, ONE_SCALE, module.MOST_BEAMS)
        scale = found.scales(ONE_SCALE)[0, 0]
        points = np.array(list(itertools.product(scale * levels, repeat=columns)), np.float64) - w
        best = np.einsum("ij,jk,ik->i", points, metric, points).min()
        # float32 sums of one term a column, and float32 factors of the metric.
        tolerance = columns * np.linalg.cond(metric) * np.finfo(np.float32).eps
        ours = error(w, found, metric, levels, columns, ONE_SCALE)[0]
        assert ours >= best * (1 - tolerance)
        exact += ours <= best * (1 + tolerance)
        one = error(w, babai(w, factorize(metric), levels, columns, ONE_SCALE), metric, levels, columns, ONE_SCALE)[0]
        wrong_with_one += one > best * (1 + tolerance)
    assert exact == 12
    assert wrong_with_one > 0


def test_more_beams_err_less(problem, error):
    w, metric = problem(64, 48)
    form = ScaleForm(4, signed=False, steps=4)
    one, two, eight = (
        error(w, k_best(w, factorize(metric), TABLE, 16, form, beams), metric, TABLE, 16, form).sum()
        for beams in (1, 2, 8)
    )
    assert eight < two < one


def test_threads_do_not_change_a_bit(problem, monkeypatch):
    w, metric = problem(23, 48)
    results = []
    for count in ("1", "3"):
        monkeypatch.setenv("MEDIANT_THREADS", count)
        results.append(k_best(w, factorize(metric), TABLE, 16, ScaleForm(5), 3))
    np.testing.assert_array_equal(results[0].codes, results[1].codes)


@pytest.mark.parametrize("beams", [0, 257])
def test_the_number_of_beams_is_checked(beams, problem):
    w, metric = problem(2, 4)
    with pytest.raises(ValueError, match="beams"):
        k_best(w, factorize(metric), TABLE, 4, ScaleForm(4), beams)
