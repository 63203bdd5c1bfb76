"""Coordinate descent against its reference and against all single changes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mediant.kernels import descent as module
from mediant.kernels.babai import Rounded, babai
from mediant.kernels.descent import descent
from mediant.kernels.scale_codes import ScaleForm
from mediant.statistics.metric_factors import factorize

TABLE = np.float32([-2.1, -1.3, -0.7, -0.2, 0.2, 0.7, 1.3, 2.1])
# More rows than are taken together, and strips, chunks and groups that end in the midst of one another.
ODD = (37, 175, 48)

GRIDS = {"affine": np.arange(-4, 4, dtype=np.float32), "table": TABLE, "one level": np.float32([0.5])}
FORM = ScaleForm(6)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("rows", "columns", "group"), [(1, 1, 4), (3, 7, 4), (9, 33, 16), (17, 40, 64), ODD])
def test_native_is_the_reference_to_the_bit(grid, rows, columns, group, problem, monkeypatch):
    w, metric = problem(rows, columns, seed=rows)
    levels, basis = GRIDS[grid], factorize(metric)
    start = babai(w, basis, levels, group, FORM)
    scales = start.scales(FORM)
    scales[0] = 0
    for sweeps in (0, 1, 3):
        native = descent(w, start.codes, scales, basis.metric, levels, group, sweeps)
        with monkeypatch.context() as patch:
            patch.setattr(module, "native", None)
            reference = descent(w, start.codes, scales, basis.metric, levels, group, sweeps)
        np.testing.assert_array_equal(native, reference)


def test_it_never_raises_the_error_and_ends_where_no_single_change_helps(problem, error):
    w, metric = problem(12, 24)
    basis = factorize(metric)
    start = babai(w, basis, TABLE, 24, FORM)

    def found(sweeps):
        codes = descent(w, start.codes, start.scales(FORM), basis.metric, TABLE, 24, sweeps)
        return Rounded(codes, start.row_scales, start.scale_codes)

    # A sum of 24^2 products in float32, whose parts may be larger than the sum by the condition of the metric.
    tolerance = 24**2 * np.finfo(np.float32).eps
    errors = [error(w, found(sweeps), metric, TABLE, 24, FORM) for sweeps in (0, 1, 2, 20)]
    for worse, better in itertools.pairwise(errors):
        assert (better <= worse * (1 + tolerance)).all()
    assert errors[-1].sum() < errors[0].sum()
    last = found(20)
    for row, column, code in itertools.product(range(12), range(24), range(len(TABLE))):
        changed = last.codes.copy()
        changed[row, column] = code
        other = error(w, Rounded(changed, last.row_scales, last.scale_codes), metric, TABLE, 24, FORM)
        assert other[row] >= errors[-1][row] * (1 - tolerance)


def test_with_a_diagonal_metric_nothing_is_left_to_do(problem):
    w, _ = problem(8, 24)
    metric = np.diag(np.random.default_rng(1).uniform(0.5, 2, 24)).astype(np.float32)
    start = babai(w, factorize(metric.astype(np.float64)), TABLE, 24, FORM)
    np.testing.assert_array_equal(descent(w, start.codes, start.scales(FORM), metric, TABLE, 24, 2), start.codes)


def test_it_does_not_write_into_what_it_is_given(problem):
    w, metric = problem(4, 12)
    start = babai(w, factorize(metric), TABLE, 4, FORM)
    before = start.codes.copy()
    descent(w, start.codes, start.scales(FORM), metric.astype(np.float32), TABLE, 4, 3)
    np.testing.assert_array_equal(start.codes, before)


def test_arguments_are_checked(problem):
    w, metric = problem(2, 4)
    codes, scales = np.zeros((2, 4), np.uint8), np.ones((2, 1), np.float32)
    with pytest.raises(ValueError, match="fit"):
        descent(w, codes, np.ones((2, 2), np.float32), metric.astype(np.float32), TABLE, 4, 1)
    with pytest.raises(ValueError, match="code 9"):
        descent(w, codes + np.uint8(9), scales, metric.astype(np.float32), TABLE, 4, 1)
