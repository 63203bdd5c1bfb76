"""GPTQ: the recursion against its formula, its theorem for a diagonal metric, and what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mediant.errors import PlanError
from mediant.forms.quantize.encode import quantize
from mediant.forms.quantize.form import Quantize
from mediant.kernels.nearest_code import nearest_code
from mediant.methods.layer import prepare
from mediant.methods.rounding.gptq import Gptq
from mediant.methods.scales import Fit
from mediant.methods.scales.absmax import Absmax
from mediant.statistics.metric_factors import damped, factorize
from mediant.values import RowSpan

LEVELS = np.arange(-3.0, 4)
PLAN = Quantize(
    grid={"name": "uniform", "kind": "symmetric"},
    scale={"name": "absmax"},
    rounding={"name": "gptq"},
    runs=(RowSpan(12, 3),),
    group=16,
    scale_bits=16,
)


def problem(columns=40, rows=12, seed=0):
    g = np.random.default_rng(seed)
    x = g.normal(size=(columns, 4 * columns)) + g.normal(size=4 * columns)
    return g.normal(size=(rows, columns)).astype(np.float32), x @ x.T / (4 * columns)


def fit(group, metric):
    return Absmax().fit(group, None, LEVELS, False)


def by_formula(matrix, metric, group):
    """Algorithm 1 of the paper in float64, one row and column at a time, the inverse updated by elimination."""
    codes = np.empty(matrix.shape, np.uint8)
    for row, weights in enumerate(matrix.astype(np.float64)):
        w, inverse, fitted = weights.copy(), np.linalg.inv(metric), Fit(np.zeros(1, np.float32), np.zeros(1))
        for j in range(len(w)):
            if j % group == 0:
                fitted = fit(w[None, j : j + group].astype(np.float32), None)
            scale = float(fitted.scale[0])
            codes[row, j] = nearest_code(w[None, j : j + 1].astype(np.float32), *fitted, LEVELS)[0, 0]
            error = w[j] - scale * LEVELS[codes[row, j]]
            w[j:] -= error / inverse[j, j] * inverse[j, j:]
            inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
            inverse[j, j] = 1
    return codes


@pytest.mark.parametrize("columns", [40, 48, 7])
def test_codes_are_those_of_the_formula(columns):
    matrix, h = problem(columns)
    metric = damped(h, 0.01)
    codes = Gptq().on_factors(matrix, factorize(metric), LEVELS, 16, fit).codes
    expected = by_formula(matrix, metric, 16)
    # float32 against float64: a weight within a few epsilons of a middle may fall to either side, rarely.
    assert (codes != expected).mean() < 0.01
    assert (codes != expected[::-1]).mean() > 0.3


def test_a_diagonal_metric_gives_nearest_rounding():
    matrix, _ = problem()
    codes, scale, zero, _, outside = Gptq().on_factors(matrix, factorize(np.diag(np.arange(1.0, 41))), LEVELS, 8, fit)
    groups = matrix.reshape(-1, 8)
    nearest = nearest_code(groups, scale.reshape(-1), zero.reshape(-1), LEVELS)
    np.testing.assert_array_equal(codes, nearest.reshape(codes.shape))
    assert outside == 0


def test_an_order_that_is_the_natural_one_changes_only_when_scales_are_fitted():
    matrix, h = problem(32)
    falling = np.argsort(-np.diag(h))
    metric = h[np.ix_(falling, falling)]
    one_group = [
        Gptq(order=order).on_factors(matrix, factorize(metric), LEVELS, 32, fit)
        for order in ("natural", "largest_first")
    ]
    for natural, ordered in zip(*(found[:3] for found in one_group), strict=True):
        np.testing.assert_array_equal(natural, ordered)
    assert one_group[0].outside == one_group[1].outside


def test_the_largest_first_loses_less_where_inputs_differ():
    g = np.random.default_rng(3)
    matrix, h = problem(64, 64)
    sizes = np.exp(g.normal(size=64))
    h = h * np.outer(sizes, sizes)
    losses = []
    for order in ("natural", "largest_first"):
        plan = dataclasses.replace(PLAN, rounding={"name": "gptq", "order": order}, group=64, runs=(RowSpan(64, 3),))
        losses.append(quantize(prepare(matrix, plan.rotation, None, h), plan).certificate.weighted_error)
    assert losses[1] < losses[0]


def test_it_loses_less_than_nearest_in_the_metric_and_more_than_nothing():
    matrix, h = problem(64, 64)
    runs = (RowSpan(64, 3),)
    plans = [dataclasses.replace(PLAN, rounding={"name": r}, runs=runs) for r in ("gptq", "nearest")]
    gptq, nearest = (quantize(prepare(matrix, p.rotation, None, h), p).certificate.weighted_error for p in plans)
    assert 0 < gptq < 0.9 * nearest


def test_zero_points_are_found_on_the_way():
    matrix, h = problem()
    plan = dataclasses.replace(PLAN, grid={"name": "uniform", "kind": "zero_point"})
    result = quantize(prepare(matrix + 5, plan.rotation, None, h), plan)
    assert "zeros" in result.parts
    assert result.certificate.relative_error < 0.02


def test_short_scales_are_refused():
    matrix, h = problem()
    plan = dataclasses.replace(PLAN, scale_bits=6)
    with pytest.raises(PlanError, match="scales of 16 bits"):
        quantize(prepare(matrix, plan.rotation, None, h), plan)


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="'random' is not one of natural, largest_first"):
        Gptq(order="random")


@pytest.mark.parametrize("order", ["natural", "largest_first"])
def test_no_certificate_is_exceeded_where_nothing_was_outside(order):
    matrix, h = problem(24, 64)
    # A wide grid: errors that are carried on stay inside.
    plan = dataclasses.replace(PLAN, rounding={"name": "gptq", "order": order}, group=4, runs=(RowSpan(64, 8),))
    seen = 0
    for row in matrix[:, :4].repeat(6, axis=1)[:, None]:
        found = quantize(
            prepare(row, plan.rotation, None, h), dataclasses.replace(plan, runs=(RowSpan(1, 8),))
        ).certificate
        if found.clipped == 0:
            seen += 1
            assert found.weighted_error <= found.worst_error * (1 + 1e-4)
            assert found.worst_error < 100 * found.expected_error
    assert seen > 0
