"""Quantization as a whole: what is stored decodes to what was measured."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from mediant.checkpoint.reader import decode
from mediant.errors import PlanError
from mediant.methods import quantize as module
from mediant.methods.error_curves import error_curve, neutral, predicted_loss, rows_of
from mediant.methods.quantize import quantize
from mediant.values import Encoding, LayerStatistics, Run, TensorInfo, TensorPlan

PLAN = TensorPlan(
    method="quantize",
    grid={"name": "uniform", "kind": "signed"},
    scale={"name": "absmax"},
    rounding={"name": "nearest"},
    group=16,
)
GRIDS = [
    {"name": "uniform", "kind": "signed"},
    {"name": "uniform", "kind": "symmetric"},
    {"name": "uniform", "kind": "half"},
    {"name": "uniform", "kind": "zero_point"},
    {"name": "uniform", "kind": "auto"},
    {"name": "farey"},
    {"name": "log2"},
    {"name": "lloyd"},
]


def matrix(rows=12, columns=40, seed=0):
    return np.random.default_rng(seed).standard_t(5, (rows, columns)).astype(np.float32)


def encoded(weights, plan, statistics=None):
    result = quantize(weights, plan, statistics)
    info = TensorInfo("w", weights.shape, "float32", "linear", "out_in")
    return result, Encoding(info, plan, result.parts, result.certificate)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: f"{g['name']}-{g.get('kind', '')}")
@pytest.mark.parametrize("scale_bits", [6, 16])
@pytest.mark.parametrize("columns", [40, 48])
def test_parts_decode_to_what_was_measured(grid, scale_bits, columns):
    plan = dataclasses.replace(PLAN, grid=grid, scale_bits=scale_bits, runs=(Run(5, 3), Run(7, 4)))
    result, encoding = encoded(matrix(columns=columns), plan)
    np.testing.assert_array_equal(decode(encoding), result.matrix)
    error = np.square(result.matrix - matrix(columns=columns).astype(np.float64)).sum()
    energy = np.square(matrix(columns=columns).astype(np.float64)).sum()
    assert result.certificate.relative_error == pytest.approx(error / energy, rel=1e-12)


def test_more_bits_err_less():
    errors = [
        quantize(matrix(64, 64), dataclasses.replace(PLAN, runs=(Run(64, b),)), None).certificate.relative_error
        for b in range(2, 9)
    ]
    assert all(b < a for a, b in itertools.pairwise(errors))


def test_pieces_do_not_change_the_result(monkeypatch):
    plan = dataclasses.replace(PLAN, scale={"name": "exact"}, runs=(Run(12, 3),))
    whole = quantize(matrix(), plan, None)
    monkeypatch.setattr(module, "CHUNK", 100)
    pieces = quantize(matrix(), plan, None)
    for name, part in whole.parts.items():
        np.testing.assert_array_equal(part, pieces.parts[name])


def test_nothing_clips_beyond_the_bound_of_the_certificate():
    plan = dataclasses.replace(PLAN, grid={"name": "uniform", "kind": "symmetric"}, scale_bits=16, runs=(Run(12, 4),))
    weights = matrix()
    result = quantize(weights, plan, None)
    scale = np.abs(module.to_groups(weights, 16)).max(1).reshape(12, -1) / 7
    allowed = np.repeat(scale, 16, axis=1)[:, :40] * (0.5 + 7 * 2**-8)  # half a step, and bfloat16's rounding of s
    assert result.certificate.clipped == 0
    assert result.certificate.bound == 0.5
    assert (np.abs(result.matrix - weights) <= allowed * (1 + 1e-6)).all()


def test_sensitive_columns_err_less():
    statistics = neutral(matrix(64, 64))
    loud = dataclasses.replace(statistics, input_square=np.where(np.arange(64) < 32, 100.0, 1.0))
    plan = dataclasses.replace(PLAN, scale={"name": "exact"}, group=64, runs=(Run(64, 2),))

    def error(s):
        return np.square(quantize(matrix(64, 64), plan, s).matrix - matrix(64, 64))[:, :32].sum()

    assert error(loud) < error(statistics)


@pytest.mark.parametrize("runs", [(), (Run(11, 3),), (Run(13, 3),), (Run(0, 3), Run(12, 3))])
def test_runs_that_do_not_fit_are_refused(runs):
    with pytest.raises(PlanError, match="12 rows"):
        quantize(matrix(), dataclasses.replace(PLAN, runs=runs), None)


def test_a_depth_that_the_grid_does_not_have_is_refused():
    with pytest.raises(PlanError, match=r"depths \(1,\)"):
        quantize(matrix(), dataclasses.replace(PLAN, runs=(Run(12, 1),)), None)


def statistics(rows, columns, seed=1):
    g = np.random.default_rng(seed)
    square, fisher = g.uniform(1, 2, (2, columns)), g.uniform(1, 2, (2, rows))
    return LayerStatistics(square[0], g.normal(size=columns), fisher[0], 10, square[1], fisher[1])


def test_predicted_loss_is_the_sum_it_says():
    s, error = statistics(3, 4), np.random.default_rng(0).uniform(size=(3, 4))
    slow = sum(
        0.5 * error[i, j] * (s.output_fisher[i] * s.input_square[j] + s.head_fisher[i] * s.head_square[j])
        for i in range(3)
        for j in range(4)
    )
    assert predicted_loss(error, s) == pytest.approx(slow, rel=1e-12)
    assert predicted_loss(2 * error, s) != pytest.approx(slow, rel=1e-3)


def test_curves_are_the_loss_of_the_quantizer_itself():
    weights, s = matrix(), statistics(12, 40)
    curve = error_curve(weights, PLAN, s, (2, 4))
    for bits, value in curve.items():
        result = quantize(weights, dataclasses.replace(PLAN, runs=(Run(12, bits),)), s)
        expected = predicted_loss(np.square(weights.astype(np.float64) - result.matrix), s)
        assert value == pytest.approx(expected, rel=weights.size * np.finfo(np.float64).eps)


def test_neutral_statistics_say_what_zeroing_costs():
    weights = matrix()
    assert predicted_loss(np.square(weights.astype(np.float64)), neutral(weights, 3.0)) == pytest.approx(3.0)


def test_rows_of_keeps_the_rows():
    part = rows_of(statistics(6, 4), np.array([1, 3]))
    assert len(part.output_fisher) == len(part.head_fisher) == 2
