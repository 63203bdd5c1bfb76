"""Quantization as a whole: what is stored decodes to what was measured."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from mediant.allocation.error_curves import error_curve
from mediant.errors import PlanError
from mediant.forms import Encoding
from mediant.forms.quantize import encode as module
from mediant.forms.quantize.encode import quantize
from mediant.forms.quantize.form import Quantize
from mediant.kernels.rotation import rotate, rotate_back
from mediant.methods.groups import to_groups
from mediant.methods.layer import neutral, prepare, rows_of
from mediant.values import LayerStatistics, RowSpan, TensorInfo

PLAN = Quantize(
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


def quantized(weights, plan, statistics=None, hessian=None):
    return quantize(prepare(weights, plan.rotation, statistics, hessian), plan)


def encoded(weights, plan, statistics=None):
    result = quantized(weights, plan, statistics)
    info = TensorInfo("w", weights.shape, "float32", "linear", "out_in")
    return result, Encoding(info, plan, result.parts, result.certificate)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: f"{g['name']}-{g.get('kind', '')}")
@pytest.mark.parametrize("scale_bits", [6, 16])
@pytest.mark.parametrize("columns", [40, 48])
def test_parts_decode_to_what_was_measured(grid, scale_bits, columns):
    plan = dataclasses.replace(PLAN, grid=grid, scale_bits=scale_bits, runs=(RowSpan(5, 3), RowSpan(7, 4)))
    result, encoding = encoded(matrix(columns=columns), plan)
    np.testing.assert_array_equal(encoding.decode(), result.matrix)
    error = np.square(result.matrix - matrix(columns=columns).astype(np.float64)).sum()
    energy = np.square(matrix(columns=columns).astype(np.float64)).sum()
    assert result.certificate.relative_error == pytest.approx(error / energy, rel=1e-12)


def test_more_bits_err_less():
    errors = [
        quantized(matrix(64, 64), dataclasses.replace(PLAN, runs=(RowSpan(64, b),))).certificate.relative_error
        for b in range(2, 9)
    ]
    assert all(b < a for a, b in itertools.pairwise(errors))


def test_pieces_do_not_change_the_result(monkeypatch):
    plan = dataclasses.replace(PLAN, scale={"name": "exact"}, runs=(RowSpan(12, 3),))
    whole = quantized(matrix(), plan)
    monkeypatch.setattr(module, "CHUNK", 100)
    pieces = quantized(matrix(), plan)
    for name, part in whole.parts.items():
        np.testing.assert_array_equal(part, pieces.parts[name])


def test_nothing_clips_beyond_the_bound_of_the_certificate():
    plan = dataclasses.replace(
        PLAN, grid={"name": "uniform", "kind": "symmetric"}, scale_bits=16, runs=(RowSpan(12, 4),)
    )
    weights = matrix()
    result = quantized(weights, plan)
    scale = np.abs(to_groups(weights, 16)).max(1).reshape(12, -1) / 7
    allowed = np.repeat(scale, 16, axis=1)[:, :40] * (0.5 + 7 * 2**-8)  # half a step, and bfloat16's rounding of s
    assert result.certificate.clipped == 0
    assert result.certificate.bound == 0.5
    assert (np.abs(result.matrix - weights) <= allowed * (1 + 1e-6)).all()


def test_sensitive_columns_err_less():
    statistics = neutral(matrix(64, 64))
    loud = dataclasses.replace(statistics, input_square=np.where(np.arange(64) < 32, 100.0, 1.0))
    plan = dataclasses.replace(PLAN, scale={"name": "exact"}, group=64, runs=(RowSpan(64, 2),))

    def error(s):
        return np.square(quantized(matrix(64, 64), plan, s).matrix - matrix(64, 64))[:, :32].sum()

    assert error(loud) < error(statistics)


@pytest.mark.parametrize("runs", [(), (RowSpan(11, 3),), (RowSpan(13, 3),), (RowSpan(0, 3), RowSpan(12, 3))])
def test_runs_that_do_not_fit_are_refused(runs):
    with pytest.raises(PlanError, match="12 rows"):
        quantized(matrix(), dataclasses.replace(PLAN, runs=runs))


def test_a_bit_width_that_the_grid_does_not_have_is_refused():
    with pytest.raises(PlanError, match=r"bit widths \(1,\)"):
        quantized(matrix(), dataclasses.replace(PLAN, runs=(RowSpan(12, 1),)))


def statistics(rows, columns, seed=1):
    g = np.random.default_rng(seed)
    square, fisher = g.uniform(1, 2, (2, columns)), g.uniform(1, 2, (2, rows))
    return LayerStatistics(square[0], g.normal(size=columns), fisher[0], 10, square[1], fisher[1])


def test_the_loss_of_a_layer_is_the_sum_it_says():
    s, weights = statistics(3, 4), matrix(3, 4)
    error = weights.astype(np.float64) - np.float32(0.5)
    slow = sum(
        0.5 * error[i, j] ** 2 * (s.output_fisher[i] * s.input_square[j] + s.head_fisher[i] * s.head_square[j])
        for i in range(3)
        for j in range(4)
    )
    layer = prepare(weights, PLAN.rotation, s)
    assert layer.loss(np.full((3, 4), 0.5, np.float32)) == pytest.approx(slow, rel=1e-12)
    assert layer.loss(np.full((3, 4), 0.6, np.float32)) != pytest.approx(slow, rel=1e-3)


def hessian(columns, seed=2):
    inputs = np.random.default_rng(seed).normal(size=(columns, 3 * columns))
    return inputs @ inputs.T / (3 * columns)


@pytest.mark.parametrize("basis", [{}, {"name": "rotation", "seed": 3}], ids=["own", "rotated"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_full_metric_counts_correlated_errors_in_any_basis(basis, tied):
    s, h, weights = statistics(3, 24), hessian(24), matrix(3, 24)
    if not tied:
        s = dataclasses.replace(s, head_square=None, head_fisher=None)
    approximation = weights + np.random.default_rng(5).normal(size=weights.shape).astype(np.float32)
    e = approximation.astype(np.float64) - weights
    through_head = np.einsum("ij,jk,ik->i", e, h, e)
    expected = 0.5 * s.output_fisher @ through_head
    if tied:
        expected = 0.5 * (s.head_fisher @ through_head + s.output_fisher @ (e**2 @ s.input_square))
    plan = dataclasses.replace(PLAN, basis=basis)
    turned = rotate(approximation, 3) if basis else approximation
    # float32 rotations: each weight within a few epsilons of the largest.
    assert prepare(weights, plan.rotation, s, h).loss(turned) == pytest.approx(expected, rel=1e-4)


BABAI = dataclasses.replace(
    PLAN,
    grid={"name": "gaussian"},
    scale={"name": "exact"},
    rounding={"name": "babai"},
    scale_bits=3,
    scale_signed=False,
    scale_steps=4,
    basis={"name": "rotation", "seed": 0},
    runs=(RowSpan(5, 2), RowSpan(7, 4)),
)


@pytest.mark.parametrize("columns", [40, 48, 35])
def test_babai_parts_decode_to_what_was_measured(columns):
    result = quantized(matrix(columns=columns), BABAI, None, hessian(columns))
    info = TensorInfo("w", (12, columns), "float32", "linear", "out_in")
    decoded = Encoding(info, BABAI, result.parts, result.certificate).decode()
    np.testing.assert_array_equal(decoded, rotate_back(result.matrix, 0))


def test_babai_loses_less_than_nearest_in_the_metric():
    weights, h = matrix(64, 64), hessian(64)
    runs = (RowSpan(64, 3),)
    factored = dataclasses.replace(BABAI, runs=runs)
    nearest = dataclasses.replace(factored, rounding={"name": "nearest"}, scale_bits=6, scale_signed=True)
    losses = [quantized(weights, p, None, h).certificate.weighted_error for p in (factored, nearest)]
    assert losses[0] < 0.9 * losses[1]


@pytest.mark.parametrize(
    "change", [{"scale": {"name": "absmax"}}, {"scale_bits": 16}, {"grid": {"name": "uniform", "kind": "zero_point"}}]
)
def test_babai_refuses_what_it_cannot_serve(change):
    with pytest.raises(PlanError, match="Babai"):
        quantized(matrix(), dataclasses.replace(BABAI, **change))


def test_curves_are_the_loss_of_the_quantizer_itself():
    weights, s = matrix(), statistics(12, 40)
    layer = prepare(weights, PLAN.rotation, s)
    for bits, value in error_curve(layer, PLAN, (2, 4)).items():
        expected = layer.loss(quantize(layer, dataclasses.replace(PLAN, runs=(RowSpan(12, bits),))).matrix)
        assert value == pytest.approx(expected, rel=weights.size * np.finfo(np.float64).eps)


def test_neutral_statistics_say_what_zeroing_costs():
    weights = matrix()
    assert prepare(weights, PLAN.rotation, neutral(weights, 3.0)).loss(np.zeros_like(weights)) == pytest.approx(3.0)


def test_rows_of_keeps_the_rows():
    part = rows_of(statistics(6, 4), np.array([1, 3]))
    assert len(part.output_fisher) == len(part.head_fisher) == 2


PAIRS = Quantize(grid={"name": "vq2d"}, scale={"name": "exact"}, rounding={"name": "babai"},
    runs=(RowSpan(7, 2), RowSpan(5, 3)), group=32, scale_bits=3, scale_signed=False, scale_steps=4,
    basis={"name": "rotation", "seed": 0},
)  # fmt: skip


@pytest.mark.parametrize("storage", ["rows", "tiles"])
@pytest.mark.parametrize("columns", [8, 38, 96])
def test_pairs_decode_to_what_was_measured(storage, columns):
    plan = dataclasses.replace(PAIRS, storage=storage)
    result, encoding = encoded(matrix(columns=columns), plan)
    np.testing.assert_allclose(encoding.decode(), rotate_back(result.matrix, 0), atol=1e-6)
    assert encoding.parts["levels.2"].shape == (32,)
    if result.certificate.clipped == 0:
        assert result.certificate.weighted_error <= result.certificate.worst_error


def test_pairs_lose_less_than_levels():
    h = hessian(96)
    weights, levels = matrix(64, 96), dataclasses.replace(PAIRS, grid={"name": "gaussian_int"}, runs=(RowSpan(64, 2),))
    pairs = dataclasses.replace(levels, grid={"name": "vq2d"})
    losses = [quantized(weights, plan, None, h).certificate.weighted_error for plan in (pairs, levels)]
    assert losses[0] < 0.97 * losses[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounding": {"name": "nearest"}}, "goes with Babai"),
        ({"rounding": {"name": "k_best"}}, "goes with Babai"),
        ({"rounding": {"name": "babai", "order": "pivot"}}, "natural order"),
    ],
)
def test_pairs_with_another_rounding_are_refused(change, message):
    with pytest.raises(PlanError, match=message):
        quantized(matrix(), dataclasses.replace(PAIRS, **change))
