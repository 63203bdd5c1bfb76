"""A stack of experts is its experts, one by one: losses, rounding, runs that end within an expert."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mediant.forms.quantize.encode import quantize
from mediant.methods.stack import Stack, prepare_any
from mediant.planning.recipe import load_recipe
from mediant.values import LayerStatistics, RowSpan

EXPERTS, ROWS, COLUMNS = 3, 12, 64
ALL = EXPERTS * ROWS
EPS = np.finfo(float).eps


@pytest.fixture
def stack():
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((EXPERTS, 200, COLUMNS)) * np.exp(
        generator.standard_normal((EXPERTS, 1, COLUMNS))
    )
    hessians = [x.T @ x / len(x) for x in inputs]
    statistics = LayerStatistics(
        input_square=np.array([np.diag(h) for h in hessians]),
        input_mean=np.zeros((EXPERTS, COLUMNS)),
        output_fisher=generator.random(ALL),
        tokens=200,
        expert_tokens=np.full(EXPERTS, 200.0),
    )
    return generator.standard_normal((ALL, COLUMNS)).astype(np.float32), statistics, hessians


def plan_of(recipe, *runs):
    plan = load_recipe(recipe).tensor_plan(tuple(runs))
    return dataclasses.replace(plan, basis={**plan.basis, "seed": 0} if plan.basis else {})


def alone(stack, number, plan):
    matrix, statistics, hessians = stack
    rows = slice(number * ROWS, (number + 1) * ROWS)
    return prepare_any(matrix[rows], plan.rotation, statistics.expert(number), hessians[number])


@pytest.mark.parametrize("recipe", ["default", "rtn"])
def test_a_stack_is_its_experts(stack, recipe):
    plan = plan_of(recipe, RowSpan(ALL, 3))
    layer = prepare_any(stack[0], plan.rotation, stack[1], stack[2])
    assert isinstance(layer, Stack)
    assert layer.cuts() == [ROWS, 2 * ROWS]
    whole = quantize(layer, plan)
    parts = [quantize(alone(stack, e, plan), plan_of(recipe, RowSpan(ROWS, 3))).matrix for e in range(EXPERTS)]
    assert (whole.matrix == np.concatenate(parts)).all()
    losses = [alone(stack, e, plan).loss(part) for e, part in enumerate(parts)]
    assert layer.loss(whole.matrix) == pytest.approx(sum(losses), rel=4 * EPS)


def test_rows_of_several_experts(stack):
    plan = plan_of("default")
    layer = prepare_any(stack[0], plan.rotation, stack[1], stack[2])
    where = np.array([2, 5, 13, 35])
    some = layer.rows(where)
    assert isinstance(some, Stack)
    assert (some.matrix == layer.matrix[where]).all()
    one = [layer.rows(np.array([i])) for i in where]
    assert not any(isinstance(row, Stack) for row in one)
    zero = np.zeros((1, COLUMNS), np.float32)
    assert some.loss(np.zeros((4, COLUMNS), np.float32)) == pytest.approx(sum(r.loss(zero) for r in one), rel=8 * EPS)


def test_runs_may_end_within_an_expert(stack):
    plan = plan_of("default", RowSpan(ROWS + 4, 2), RowSpan(ALL - ROWS - 4, 4))
    layer = prepare_any(stack[0], plan.rotation, stack[1], stack[2])
    whole = quantize(layer, plan).matrix
    first = quantize(alone(stack, 0, plan), plan_of("default", RowSpan(ROWS, 2))).matrix
    assert (whole[:ROWS] == first).all()
    second = quantize(alone(stack, 1, plan), plan_of("default", RowSpan(4, 2), RowSpan(ROWS - 4, 4))).matrix
    assert (whole[ROWS : 2 * ROWS] == second).all()


def test_its_own_hessians_beat_the_mean(stack):
    matrix, statistics, hessians = stack
    plan = plan_of("default", RowSpan(ALL, 3))
    own = prepare_any(matrix, plan.rotation, statistics, hessians)
    mean = [np.mean(hessians, axis=0)] * EXPERTS
    pooled = prepare_any(matrix, plan.rotation, statistics, mean)
    assert own.loss(quantize(own, plan).matrix) < own.loss(quantize(pooled, plan).matrix)
