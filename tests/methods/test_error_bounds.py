"""Bounds hold where nothing is outside its grid, are met on average, and say something."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mediant.forms.quantize.encode import quantize
from mediant.forms.quantize.form import Quantize
from mediant.kernels.babai import babai
from mediant.kernels.pairs import pair_order
from mediant.kernels.scale_codes import ScaleForm
from mediant.methods.error_bounds import bounds, outside, reach
from mediant.methods.grids.vq2d import Vq2d
from mediant.methods.layer import Layer, prepare
from mediant.statistics.metric_factors import factorize
from mediant.values import LayerStatistics, RowSpan

ROWS, COLUMNS = 24, 40
PLAN = Quantize(
    grid={"name": "uniform", "kind": "half"},
    scale={"name": "exact"},
    rounding={"name": "babai"},
    runs=(RowSpan(ROWS, 6),),
    group=16,
    scale_bits=6,
)


def matrix(seed, rows=ROWS):
    return np.random.default_rng(seed).normal(size=(rows, COLUMNS)).astype(np.float32)


def hessian(seed):
    g = np.random.default_rng(seed)
    mixed = (np.eye(COLUMNS) + g.normal(size=(COLUMNS, COLUMNS)) / 6) @ g.normal(size=(COLUMNS, 3 * COLUMNS))
    return mixed @ mixed.T / (3 * COLUMNS)


def statistics(seed, tied):
    g = np.random.default_rng(seed)
    square, fisher = g.uniform(1, 9, (2, COLUMNS)), g.uniform(0, 2, (2, ROWS))
    head = (square[1], fisher[1]) if tied else (None, None)
    return LayerStatistics(square[0], g.normal(size=COLUMNS), fisher[0], 10, *head)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("basis", [{}, {"name": "rotation", "seed": 1}], ids=["own", "rotated"])
@pytest.mark.parametrize(
    "rounding",
    [
        {"name": "babai", "sweeps": 0},
        {"name": "babai"},
        {"name": "babai", "order": "largest"},
        {"name": "k_best"},
        {"name": "nearest"},
    ],
    ids=str,
)
def test_no_layer_exceeds_its_worst_case_where_nothing_clips(rounding, basis, tied):
    plan = dataclasses.replace(PLAN, rounding=rounding, basis=basis, runs=(RowSpan(ROWS, 8),))
    if rounding["name"] == "nearest":
        plan = dataclasses.replace(plan, scale={"name": "absmax"}, scale_bits=16)
    bounded = 0
    for seed in range(6):
        found = quantize(prepare(matrix(seed), plan.rotation, statistics(seed, tied), hessian(seed)), plan).certificate
        if found.clipped == 0:
            bounded += 1
            assert found.weighted_error <= found.worst_error
            assert found.expected_error < found.worst_error
    # K-best may prefer a level further off, for the sake of what follows; that counts as outside too.
    assert bounded > 0 or rounding["name"] == "k_best"


def test_the_comparison_sees_a_code_that_is_too_far_off():
    layer = prepare(matrix(0), PLAN.rotation, None, np.eye(COLUMNS))
    found = quantize(layer, PLAN)
    wrong = found.matrix.copy()
    wrong += 1.5 * np.abs(np.diff(np.unique(found.matrix[0]))).max()
    zeroing = layer.loss(np.zeros_like(wrong))
    assert layer.loss(found.matrix) / zeroing <= found.certificate.worst_error < layer.loss(wrong) / zeroing


def test_the_expected_loss_is_met_on_average():
    """Squares of evenly spread errors have the relative deviation sqrt(4/5); those of many weights average out."""
    plan = dataclasses.replace(PLAN, rounding={"name": "babai", "sweeps": 0}, runs=(RowSpan(500, 6),))
    s = dataclasses.replace(statistics(0, False), output_fisher=np.ones(500))
    found = quantize(prepare(matrix(0, 500), plan.rotation, s, hessian(0)), plan).certificate
    d = factorize(hessian(0)).conditional.astype(np.float64)
    effective = 500 * d.sum() ** 2 / np.square(d).sum()
    # Damping of 1 % makes the metric, and so the expected loss, larger by at most as much as its smallest direction.
    damped = 0.01 * np.diag(hessian(0)).mean() / np.linalg.eigvalsh(hessian(0))[0]
    spread = 5 * np.sqrt(0.8 / effective)
    assert 1 / (1 + damped) - spread < found.weighted_error / found.expected_error < 1 + spread


def test_descent_goes_below_the_expected_loss_but_the_bound_stays():
    plans = [dataclasses.replace(PLAN, rounding={"name": "babai", "sweeps": n}) for n in (0, 4)]
    plain, better = (quantize(prepare(matrix(1), p.rotation, None, hessian(1)), p).certificate for p in plans)
    assert better.weighted_error < plain.weighted_error
    assert better.worst_error == plain.worst_error


def test_weights_outside_are_counted_as_their_turn_comes():
    """Against the recursion itself, weight by weight in float64."""
    w, basis, form, levels = matrix(3), factorize(hessian(3)), ScaleForm(6), np.arange(-2.0, 3)
    found = babai(w, basis, levels.astype(np.float32), 16, form)
    scales = found.scales(form)
    wide = np.repeat(scales, 16, axis=1)[:, :COLUMNS]
    decoded = wide * levels[found.codes]
    left, count = w.astype(np.float64), 0
    for j in range(COLUMNS):
        e = left[:, j] - decoded[:, j]
        count += int((np.abs(e) > 0.5 * np.abs(wide[:, j]) * (1 + 1e-3)).sum())
        left[:, j + 1 :] -= e[:, None] * basis.feedback[j, j + 1 :]
    assert count > 0
    assert outside((w - decoded).astype(np.float32), basis, scales, levels, 16) == count


def test_levels_of_uneven_cells():
    table = np.array([-3.0, -1, 0, 1])
    layer = Layer(np.zeros((1, 4), np.float32), prepare(np.zeros((1, 4), np.float32), PLAN.rotation, None).terms)
    codes = np.arange(4, dtype=np.uint8)[None]
    assert reach(table) == 1
    f = layer.terms[0].rows[0]
    found = bounds(layer, None, np.full((1, 1), 2, np.float32), codes, table, 4)
    assert found.worst == pytest.approx(0.5 * f * 4 * 4)
    cells = [1 / 3, (1 + 0.125) / 4.5, 1 / 12, 1 / 12]
    assert found.expected == pytest.approx(0.5 * f * 4 * sum(cells))


def test_pairs_keep_their_bound_where_nothing_is_outside():
    """Rows near points of the codebook, so that some come out with nothing clipped."""
    points = Vq2d().levels(2)
    plan = dataclasses.replace(
        PLAN, grid={"name": "vq2d"}, runs=(RowSpan(1, 2),), group=32, scale_bits=3, scale_signed=False, scale_steps=4
    )
    g, kept = np.random.default_rng(0), 0
    for seed in range(60):
        chosen = points[:, g.integers(0, 16, 20)] + g.normal(size=(2, 20))
        row = np.zeros((1, COLUMNS), np.float32)
        row[0, pair_order(COLUMNS)] = chosen.T.reshape(-1)
        found = quantize(prepare(row, plan.rotation, None, np.eye(COLUMNS) + 0.02 * hessian(seed)), plan).certificate
        kept += found.clipped == 0
        assert found.clipped > 0 or found.weighted_error <= found.worst_error
        assert 0 < found.expected_error < found.worst_error
    assert kept > 5


def test_no_target_between_points_is_farther_than_the_reach():
    points = Vq2d().levels(2)
    weights = np.random.default_rng(1).dirichlet(np.full(16, 0.2), 4000)
    targets = weights @ points.T
    nearest = np.sqrt(np.square(targets[:, None] - points.T).sum(axis=2).min(axis=1))
    assert 0.7 * reach(points) < nearest.max() <= reach(points)
