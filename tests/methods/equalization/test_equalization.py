"""What every balancing promises: the matrix and its loss stay what they are, but for rounding."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from mediant import discovery
from mediant.errors import CheckpointError, PlanError
from mediant.forms import Encoding
from mediant.forms.quantize.encode import quantize
from mediant.forms.quantize.form import Quantize
from mediant.kernels.bfloat16 import from_float32, to_float32
from mediant.methods.equalization.awq import Awq
from mediant.methods.equalization.smoothquant import Smoothquant
from mediant.methods.layer import prepare
from mediant.values import LayerStatistics, RowSpan, TensorInfo

NAMES = discovery.names("equalization")
PLAN = Quantize(
    grid={"name": "uniform", "kind": "symmetric"},
    scale={"name": "absmax"},
    rounding={"name": "nearest"},
    runs=(RowSpan(12, 3),),
    group=16,
    scale_bits=16,
)
INFO = TensorInfo("w", (12, 40), "float32", "linear", "out_in")


def problem(seed=0):
    g = np.random.default_rng(seed)
    square = np.exp(2 * g.normal(size=40))
    return g.normal(size=(12, 40)).astype(np.float32), LayerStatistics(square, np.zeros(40), g.uniform(1, 2, 12), 100)


def balanced(name, **more):
    return dataclasses.replace(PLAN, basis={"name": "columns", "by": {"name": name}}, **more)


@pytest.mark.parametrize("name", NAMES)
def test_factors_can_be_stored_and_repeated(name):
    matrix, s = problem()
    layer = prepare(matrix, PLAN.rotation, s)
    method = discovery.make("equalization", {"name": name})
    found = method.factors(layer, lambda c: float(c.sum()))
    assert (found.dtype, found.shape) == (np.float32, (40,))
    assert (found > 0).all()
    np.testing.assert_array_equal(to_float32(from_float32(found)), found)
    np.testing.assert_array_equal(method.factors(layer, lambda c: float(c.sum())), found)
    assert discovery.make("equalization", json.loads(json.dumps(discovery.spec(method)))) == method


@pytest.mark.parametrize("name", NAMES)
def test_inputs_and_weights_of_nothing_keep_a_factor(name):
    matrix, s = problem()
    matrix[:, 3] = 0
    square = s.input_square.copy()
    square[[3, 7]] = 0
    for statistics in (dataclasses.replace(s, input_square=square), dataclasses.replace(s, input_square=0 * square)):
        found = discovery.make("equalization", {"name": name}).factors(
            prepare(matrix, PLAN.rotation, statistics), lambda c: 0.0
        )
        assert np.isfinite(found).all()
        assert (found > 0).all()


def test_scaling_undoes_itself_and_leaves_the_loss():
    matrix, s = problem()
    factors = np.float32(2.0) ** np.arange(-20, 20).astype(np.float32)
    for hessian in (None, np.cov(np.random.default_rng(1).normal(size=(40, 99)))):
        layer = prepare(matrix, PLAN.rotation, s, hessian)
        scaled = layer.scaled(factors)
        # Powers of two: nothing is rounded.
        np.testing.assert_array_equal(scaled.matrix * factors, matrix)
        guess = np.round(matrix)
        eps = np.finfo(np.float64).eps
        assert scaled.loss(guess / factors) == pytest.approx(layer.loss(guess), rel=matrix.size * eps)
        assert scaled.loss(guess / factors**2) != pytest.approx(layer.loss(guess), rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("more", [{}, {"outliers": 2}, {"rounding": {"name": "gptq"}}])
def test_parts_decode_to_what_was_measured(name, more):
    matrix, s = problem()
    plan = balanced(name, **more)
    result = quantize(prepare(matrix, plan.rotation, s, np.diag(s.input_square)), plan)
    encoding = Encoding(INFO, plan, result.parts, result.certificate)
    encoding.verify()
    np.testing.assert_array_equal(encoding.decode(), result.matrix)
    assert result.parts["column_scales"].shape == (40,)


def test_awq_takes_the_exponent_of_least_loss():
    matrix, s = problem()
    layer = prepare(matrix, PLAN.rotation, s)
    tried = []

    def loss(factors):
        tried.append(factors)
        return abs(len(tried) - 8.0)

    np.testing.assert_array_equal(Awq().factors(layer, loss), tried[7])
    assert len(tried) == 20
    assert (tried[0] == 1).all()


def test_awq_is_no_worse_than_no_balance_where_all_rows_are_tried():
    matrix, s = problem()
    plain, found = (
        quantize(prepare(matrix, p.rotation, s), p).certificate.weighted_error for p in (PLAN, balanced("awq"))
    )
    assert found < plain


def test_smoothquant_gives_inputs_and_weights_the_same_range():
    matrix, s = problem()
    factors = Smoothquant().factors(prepare(matrix, PLAN.rotation, s), lambda c: 0.0).astype(np.float64)
    weights = np.abs(matrix).max(axis=0) / factors
    inputs = np.sqrt(s.input_square) * factors
    ratio = weights / inputs
    # Each factor is rounded to 8 bits, and counts twice.
    assert ratio.max() / ratio.min() <= (1 + 2.0**-8) ** 4
    assert (weights * factors / (np.sqrt(s.input_square) / factors)).max() > 2 * ratio.max()


@pytest.mark.parametrize("basis", [{"name": "columns"}, {"name": "columns", "by": "awq"}, {"name": "rows", "by": {}}])
def test_other_bases_are_refused(basis):
    with pytest.raises(PlanError, match="basis of 'w'"):
        dataclasses.replace(PLAN, basis=basis).parts(INFO)


def test_factors_that_overflow_are_refused():
    matrix, s = problem()
    plan = balanced("awq")
    result = quantize(prepare(matrix, plan.rotation, s), plan)
    huge = from_float32(np.full(40, 3e38, np.float32))
    encoding = Encoding(INFO, plan, result.parts | {"column_scales": huge}, None)
    with pytest.raises(CheckpointError, match="too large for finite weights"):
        encoding.verify()


@pytest.mark.parametrize(("method", "wrong"), [(Awq, {"grid": 0}), (Smoothquant, {"alpha": 1.5})])
def test_parameters_out_of_range_are_refused(method, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        method(**wrong)
