"""Babai with a price against its reference, against nearest rounding, and against every choice there is."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from mediant.kernels import rate_babai as module
from mediant.kernels.rate_babai import MOST, STEEP, Prices, Steps, rate_babai
from mediant.statistics.metric_factors import damped, factorize


def problem(rows, columns, seed=0):
    """A matrix, a metric, steps that differ by row and column, and random prices of four classes."""
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(columns, 2 * columns)) * np.exp(generator.normal(size=(columns, 1)))
    metric = damped(inputs @ inputs.T / (2 * columns), 0.01)
    positive = [np.exp(generator.normal(size=n)).astype(np.float32) for n in (rows, columns, rows, columns)]
    steps = Steps(0.3 * positive[0], positive[1], positive[2], positive[3], 2 * positive[3])
    classes = [generator.integers(0, top, n).astype(np.uint8) for n, top in ((rows, 3), (columns, 2))]
    prices = Prices(np.sort(generator.random((4, 5)), axis=1).astype(np.float32), *classes)
    return generator.normal(size=(rows, columns)).astype(np.float32), metric, steps, prices


@pytest.mark.parametrize("sweeps", [0, 1, 3])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 7), (5, 33), (9, 40), (4, 12), (37, 175)])
def test_native_is_the_reference_to_the_bit(rows, columns, sweeps, monkeypatch):
    w, metric, steps, prices = problem(rows, columns, seed=rows)
    w[0, 0], w[-1, -1] = 0, 1e9
    native = rate_babai(w, factorize(metric), steps, prices, sweeps)
    monkeypatch.setattr(module, "native", None)
    np.testing.assert_array_equal(native, rate_babai(w, factorize(metric), steps, prices, sweeps))
    assert np.abs(native).max() == MOST or columns > 1


def test_threads_do_not_change_a_bit(monkeypatch):
    w, metric, steps, prices = problem(23, 48)
    found = []
    for count in ("1", "3"):
        monkeypatch.setenv("MEDIANT_THREADS", count)
        found.append(rate_babai(w, factorize(metric), steps, prices))
    np.testing.assert_array_equal(*found)


def test_a_diagonal_metric_and_no_price_give_nearest_rounding():
    w, _, steps, prices = problem(8, 24)
    # No price at all, beyond the table either: all magnitudes are in it.
    nothing = Prices(np.zeros((4, 4096), np.float32), prices.row_classes, prices.column_classes)
    found = rate_babai(w, factorize(np.diag(np.linspace(1, 2, 24))), steps, nothing)
    step = steps.rows[:, None] * steps.columns
    np.testing.assert_array_equal(found, np.rint(w * (1 / step)))


def test_without_correlations_the_choice_is_the_best_of_its_three_and_rarely_beaten():
    w, _, steps, prices = problem(16, 24)
    found = rate_babai(w, factorize(np.eye(24)), steps, prices)
    x = w / (steps.rows[:, None] * steps.columns)
    weights = steps.row_weights[:, None] * steps.column_weights
    table = prices.table[prices.row_classes[:, None] + prices.column_classes]

    def cost(k):
        within = np.minimum(np.abs(k), 4)[..., None]
        price = np.take_along_axis(table, within, axis=2)[..., 0] + STEEP * np.maximum(np.abs(k) - 4, 0)
        return weights * (x - k) ** 2 + price

    nearest = np.rint(x).astype(int)
    offered = [nearest, nearest - np.sign(nearest), np.zeros_like(nearest)]
    # Of equals, either may be taken: float32 and float64 see a tie differently.
    np.testing.assert_allclose(cost(found.astype(int)), np.min([cost(k) for k in offered], axis=0), rtol=1e-4)
    best = np.min([cost(np.full_like(nearest, k)) for k in range(-40, 41)], axis=0)
    assert np.mean(cost(found.astype(int)) <= best * (1 + 1e-4)) > 0.95


def test_the_error_is_the_sum_of_conditional_errors():
    """sum_j d_j e_j^2 with the errors that were carried on equals (w^ - w) M (w^ - w)^T (arXiv 2507.18553)."""
    w, metric, steps, prices = problem(6, 20)
    basis = factorize(metric)
    value = (steps.rows[:, None] * steps.columns).astype(np.float64) * rate_babai(w, basis, steps, prices)
    left, total = w.astype(np.float64).copy(), np.zeros(6)
    for j in range(20):
        e = left[:, j] - value[:, j]
        total += basis.conditional[j] * e**2
        left[:, j + 1 :] -= e[:, None] * basis.feedback[j, j + 1 :]
    difference = value - w
    tolerance = 20 * np.linalg.cond(metric) * np.finfo(np.float32).eps
    np.testing.assert_allclose(total, np.einsum("ij,jk,ik->i", difference, metric, difference), rtol=tolerance)


def test_numbers_shrink_as_prices_rise_and_vanish_at_the_end():
    w, _, steps, prices = problem(12, 24)
    totals = []
    for factor in (0, 0.1, 1, 1e6):
        table = np.float32(factor) * np.arange(256, dtype=np.float32)[None].repeat(4, 0)
        found = rate_babai(w, factorize(np.eye(24)), steps, Prices(table, prices.row_classes, prices.column_classes))
        totals.append(int(np.abs(found).sum()))
    assert all(a > b for a, b in itertools.pairwise(totals))
    assert totals[-1] == 0


def test_sweeps_never_raise_error_and_price_and_end_where_no_zero_helps():
    w, metric, steps, _ = problem(8, 20)
    basis = factorize(metric)
    # Weights that are those of the metric, and one class, so that the sum is what the sweeps minimise.
    consistent = dataclasses.replace(
        steps,
        row_weights=steps.rows**2,
        column_weights=basis.conditional * steps.columns**2,
        descent_weights=np.diag(metric).astype(np.float32) * steps.columns**2,
    )
    prices = Prices(np.linspace(0, 3, 64, dtype=np.float32)[None], np.zeros(8, np.uint8), np.zeros(20, np.uint8))

    def objective(numbers):
        error = numbers * (steps.rows[:, None] * steps.columns).astype(np.float64) - w
        price = prices.table[0][np.abs(numbers)].sum(axis=1)
        return np.einsum("ij,jk,ik->i", error, metric, error) + price

    found = [rate_babai(w, basis, consistent, prices, sweeps) for sweeps in (0, 1, 2, 50)]
    totals = [objective(numbers) for numbers in found]
    slack = 1 + 20 * np.linalg.cond(metric) * np.finfo(np.float32).eps
    assert all(np.all(later <= slack * earlier) for earlier, later in itertools.pairwise(totals))
    assert totals[1].sum() < totals[0].sum()
    for j in range(20):
        moved = found[-1].copy()
        moved[:, j] = 0
        assert np.all(totals[-1] <= slack * objective(moved))


def test_arguments_are_checked():
    w, metric, steps, prices = problem(2, 4)
    with pytest.raises(ValueError, match="as many steps"):
        rate_babai(w[:, :3], factorize(metric), steps, prices)
    with pytest.raises(ValueError, match="of the class"):
        rate_babai(w, factorize(metric), steps, Prices(prices.table[:1], np.uint8([1, 0]), prices.column_classes))
