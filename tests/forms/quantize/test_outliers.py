"""Outlier columns: kept as they are, or as good as can be beside what was rounded."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from mediant.errors import CheckpointError, PlanError
from mediant.forms import Encoding
from mediant.forms.quantize import outliers
from mediant.forms.quantize.encode import quantize
from mediant.forms.quantize.form import Quantize
from mediant.methods.layer import prepare
from mediant.statistics.metric_factors import damped
from mediant.values import RowSpan, TensorInfo

PLAN = Quantize(
    grid={"name": "uniform", "kind": "symmetric"},
    scale={"name": "absmax"},
    rounding={"name": "gptq"},
    runs=(RowSpan(12, 3),),
    group=16,
    scale_bits=16,
    outliers=3,
)
INFO = TensorInfo("w", (12, 40), "float32", "linear", "out_in")


def problem(seed=0):
    g = np.random.default_rng(seed)
    x = g.normal(size=(40, 200)) + g.normal(size=200)
    x[[5, 17, 30]] *= 30
    return g.normal(size=(12, 40)).astype(np.float32), x @ x.T / 200


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
def test_parts_decode_to_what_was_measured(rounding):
    matrix, h = problem()
    plan = dataclasses.replace(PLAN, rounding={"name": rounding})
    result = quantize(prepare(matrix, plan.rotation, None, h), plan)
    encoding = Encoding(INFO, plan, result.parts, result.certificate)
    encoding.verify()
    np.testing.assert_array_equal(encoding.decode(), result.matrix)


def test_the_loud_columns_are_kept_exactly_where_nothing_is_known_of_their_neighbours():
    matrix, h = problem()
    # Multiples of 1/64 below 16 are float16 numbers.
    matrix = np.float32(np.round(matrix * 64) / 64)
    found = outliers.most_sensitive(prepare(matrix, PLAN.rotation, None, h), np.zeros_like(matrix), 3)
    assert found.tolist() == [5, 17, 30]
    alone = prepare(matrix, PLAN.rotation, None, np.diag(np.diag(h)))
    result = quantize(alone, dataclasses.replace(PLAN, rounding={"name": "nearest"}))
    np.testing.assert_array_equal(result.matrix[:, found], matrix[:, found])
    assert (result.matrix != matrix).any()


def test_values_are_the_best_beside_the_rounded_others():
    matrix, h = problem()
    metric, kept = damped(h, outliers.DAMPING), np.array([5, 17, 30])
    rounded = np.round(matrix)
    layer = prepare(matrix, PLAN.rotation, None, h)
    error = matrix.astype(np.float64) - rounded
    error[:, kept] = matrix[:, kept] - outliers.values(layer, kept, rounded).astype(np.float64)
    gradient = (error @ metric)[:, kept]
    # float16 leaves each value within 2^-11 of it, and each gradient within the metric times that.
    allowed = 2.0**-11 * np.abs(error[:, kept] - matrix[:, kept]) @ np.abs(metric[np.ix_(kept, kept)])
    assert (np.abs(gradient) <= allowed + 1e-6 * np.abs(metric).max()).all()
    error[:, kept] = 0
    assert np.abs((error @ metric)[:, kept]).max() > allowed.max()


def test_the_others_see_what_the_outliers_cannot_make_good():
    matrix, h = problem()
    kept, layer = np.array([5, 17, 30]), prepare(matrix, PLAN.rotation, None, h)
    left, h = outliers.without(layer, kept).terms[0].columns, layer.metric()
    metric = damped(h, outliers.DAMPING)
    others = np.setdiff1d(np.arange(40), kept)
    inverse = np.linalg.inv(np.linalg.inv(metric)[np.ix_(others, others)])
    shift = metric - h
    expected = inverse - shift[np.ix_(others, others)]
    np.testing.assert_allclose(left[np.ix_(others, others)], expected, atol=1e-9 * np.abs(h).max())
    assert not left[kept].any()
    assert not left[:, kept].any()


def test_they_help():
    matrix, h = problem()
    losses = [
        quantize(
            prepare(matrix, PLAN.rotation, None, h), dataclasses.replace(PLAN, outliers=count)
        ).certificate.weighted_error
        for count in (0, 1, 3, 8)
    ]
    assert all(b < a for a, b in itertools.pairwise(losses))


def test_gains_of_rows_reach_the_outliers():
    matrix, h = problem()
    result = quantize(prepare(matrix, PLAN.rotation, None, h), PLAN)
    gain = np.float32(2.0) ** np.arange(-6, 6).astype(np.float32)
    changed = Encoding(INFO, PLAN, PLAN.with_row_gains(INFO, result.parts, gain), None)
    # Powers of two: nothing is rounded.
    np.testing.assert_array_equal(changed.decode(), gain[:, None] * result.matrix)


@pytest.mark.parametrize("count", [-1, 40])
def test_impossible_counts_are_refused(count):
    with pytest.raises(PlanError, match="outliers of 'w'"):
        dataclasses.replace(PLAN, outliers=count).parts(INFO)


def test_a_mask_with_another_count_is_refused():
    matrix, h = problem()
    result = quantize(prepare(matrix, PLAN.rotation, None, h), PLAN)
    wrong = result.parts["outlier_mask"] | np.uint8(255)
    encoding = Encoding(INFO, PLAN, result.parts | {"outlier_mask": wrong}, None)
    with pytest.raises(CheckpointError, match="does not have 3 outliers"):
        encoding.verify()
