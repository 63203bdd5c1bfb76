"""Rounding in pairs: against all points, against `babai` where pairs are products, and native against the reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mediant.kernels import native
from mediant.kernels import pair_babai as babai_module
from mediant.kernels import pair_descent as descent_module
from mediant.kernels.babai import babai, empty, scale_factors
from mediant.kernels.descent import descent
from mediant.kernels.pair_babai import pair_babai, pair_babai_reference
from mediant.kernels.pair_descent import pair_descent, pair_descent_reference
from mediant.kernels.pairs import PAIRS
from mediant.kernels.scale_codes import ScaleForm
from mediant.methods.grids.vq2d import Vq2d
from mediant.statistics.metric_factors import factorize

POINTS = Vq2d().levels(2).astype(np.float32)
FORM = ScaleForm(3, False, 4)
FOUR = np.float32([-11.5, -3.5, 3.5, 11.5])
SHAPES = [(1, 2), (1, 1), (3, 5), (5, 8), (9, 32), (4, 46), (6, 75), (2, 96), (37, 175)]
needs_native = pytest.mark.skipif(native is None, reason="the native kernels were not built")


def paired_of(columns: int) -> int:
    """All but at most three columns."""
    return columns // 4 * 4 + (2 if columns % 4 == 2 else 0)


@needs_native
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("group", [32, 6])
def test_native_equals_reference(problem, rows, columns, group):
    w, metric = problem(rows, columns, seed=columns)
    space, paired = factorize(metric), paired_of(columns)
    expected = empty(w.shape, group)
    pair_babai_reference(w, space, POINTS, group, scale_factors(FORM), paired, expected)
    found = pair_babai(w, space, POINTS, group, FORM, paired)
    for part in ("codes", "row_scales", "scale_codes"):
        np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))
    better = expected.codes.copy()
    pair_descent_reference(w, better, expected.scales(FORM), space.metric, POINTS, group, paired, 3)
    descended = pair_descent(w, found.codes, found.scales(FORM), space.metric, POINTS, group, paired, 3)
    np.testing.assert_array_equal(descended, better)


def test_without_native_kernels_the_result_is_the_same(problem, monkeypatch):
    w, metric = problem(3, 22)
    space = factorize(metric)
    found = pair_babai(w, space, POINTS, 8, FORM, 20)
    better = pair_descent(w, found.codes, found.scales(FORM), space.metric, POINTS, 8, 20, 2)
    monkeypatch.setattr(babai_module, "native", None)
    monkeypatch.setattr(descent_module, "native", None)
    np.testing.assert_array_equal(pair_babai(w, space, POINTS, 8, FORM, 20).codes, found.codes)
    again = pair_descent(w, found.codes, found.scales(FORM), space.metric, POINTS, 8, 20, 2)
    np.testing.assert_array_equal(again, better)


def test_a_pair_alone_takes_the_point_nearest_in_the_metric(problem, decoded, error):
    w, metric = problem(200, 2)
    found = pair_babai(w, factorize(metric), POINTS, 2, FORM, 2)
    least = error(w, found, metric, POINTS.reshape(-1), 2, FORM)
    for p in range(PAIRS):
        found.codes[:] = p, PAIRS + p
        assert (least <= error(w, found, metric, POINTS.reshape(-1), 2, FORM) * (1 + 1e-5)).all()


def test_pairs_of_independent_levels_are_those_of_babai(problem):
    """With a diagonal metric and all pairs of four levels, weights do not see one another: two roundings in one."""
    w, metric = problem(40, 32)
    space = factorize(np.diag(np.diag(metric)))
    product = np.array(list(itertools.product(FOUR, FOUR)), np.float32).T
    found, usual = pair_babai(w, space, product, 32, FORM, 32), babai(w, space, FOUR, 32, FORM)
    np.testing.assert_array_equal(found.row_scales, usual.row_scales)
    agree = found.scale_codes == usual.scale_codes  # sums of other numbers may round to another choice
    assert agree.mean() > 0.9
    same = np.repeat(agree, 32, axis=1)
    np.testing.assert_array_equal(product.reshape(-1)[found.codes][same], FOUR[usual.codes][same])


def test_points_err_less_than_levels(problem, error):
    w, metric = problem(300, 64, spread=0.3)
    space = factorize(metric)
    found, usual = pair_babai(w, space, POINTS, 32, FORM, 64), babai(w, space, FOUR, 32, FORM)
    pairs = error(w, found, metric, POINTS.reshape(-1), 32, FORM).sum()
    levels = error(w, usual, metric, FOUR, 32, FORM).sum()
    assert pairs < 0.97 * levels
    found = type(found)(
        pair_descent(w, found.codes, found.scales(FORM), space.metric, POINTS, 32, 64, 4),
        found.row_scales, found.scale_codes,
    )  # fmt: skip
    usual = type(usual)(
        descent(w, usual.codes, usual.scales(FORM), space.metric, FOUR, 32, 4), usual.row_scales, usual.scale_codes
    )
    after = error(w, found, metric, POINTS.reshape(-1), 32, FORM)
    assert after.sum() < 0.97 * error(w, usual, metric, FOUR, 32, FORM).sum()
    assert after.sum() < pairs


def test_descent_ends_where_no_pair_can_gain(problem, error):
    w, metric = problem(4, 12)
    space = factorize(metric)
    found = pair_babai(w, space, POINTS, 12, FORM, 10)
    codes = pair_descent(w, found.codes, found.scales(FORM), space.metric, POINTS, 12, 10, 100)
    settled = type(found)(codes, found.row_scales, found.scale_codes)
    least = error(w, settled, metric, POINTS.reshape(-1), 12, FORM)
    for j in range(0, 12, 2):
        for p in range(PAIRS if j < 10 else 4):
            tried = codes.copy()
            tried[:, j] = p
            if j < 10:
                tried[:, j + 1] = PAIRS + p
            moved = error(
                w, type(found)(tried, found.row_scales, found.scale_codes), metric, POINTS.reshape(-1), 12, FORM
            )
            assert (moved >= least * (1 - 1e-4)).all()


@pytest.mark.parametrize(
    ("points", "group", "paired", "message"),
    [
        (POINTS[:, :8], 8, 8, "codebook"),
        (POINTS, 7, 8, "not pairs"),
        (POINTS, 8, 7, "not pairs"),
        (POINTS, 8, 10, "not pairs"),
    ],
)
def test_what_are_no_pairs_is_refused(problem, points, group, paired, message):
    w, metric = problem(2, 8)
    with pytest.raises(ValueError, match=message):
        pair_babai(w, factorize(metric), points, group, FORM, paired)


def test_codes_of_different_points_are_refused(problem):
    w, metric = problem(2, 8)
    scales = np.ones((2, 1), np.float32)
    with pytest.raises(ValueError, match="one point"):
        pair_descent(w, np.zeros((2, 8), np.uint8), scales, factorize(metric).metric, POINTS, 8, 8, 1)
