"""One denominator: what theory says of its errors, its rates and its row scales."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mediant.forms.entropy_coded import encode as denominator
from mediant.forms.entropy_coded.coded_matrix import CodedMatrix
from mediant.forms.entropy_coded.encode import encode, rate, row_shares
from mediant.forms.entropy_coded.form import EntropyCoded
from mediant.methods.layer import prepare
from mediant.values import LayerStatistics

PLAN = EntropyCoded(step=0.01, damping=0.001, price=0.0, floor=0.0)


def layer(rows=64, columns=48, seed=0, dead_rows=0):
    """A matrix of correlated inputs whose rows and columns differ widely in sensitivity."""
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(columns, 4 * columns)) * np.exp(generator.normal(size=(columns, 1)))
    inputs += inputs.mean(axis=0)
    hessian = inputs @ inputs.T / inputs.shape[1]
    fisher = np.exp(generator.normal(size=rows))
    fisher[:dead_rows] = 0
    statistics = LayerStatistics(np.diag(hessian).copy(), np.zeros(columns), fisher, 100)
    return prepare(generator.normal(size=(rows, columns)).astype(np.float32), PLAN.rotation, statistics, hessian)


def with_spread(found, spread):
    """The plan whose numbers have this root mean square."""
    unit = dataclasses.replace(PLAN, step=1.0)
    return dataclasses.replace(PLAN, step=denominator.spread(found, unit) / spread)


def test_at_fine_steps_every_weight_costs_a_twelfth_of_the_squared_step():
    """The loss is 1/2 of the error in the metric of the lattice, which is uniform in each of its directions."""
    found, plan = layer(), dataclasses.replace(PLAN, step=1e-3, damping=1e-9)
    expected = 0.5 * found.matrix.size * plan.step**2 / 12
    # Column factors are eighths of octaves, which scatters squared steps; 3072 numbers scatter their sum by some 2 %.
    assert rate(found, plan).loss == pytest.approx(expected, rel=0.1)


def test_a_finer_step_takes_a_bit_a_weight_for_every_octave_and_loses_a_quarter():
    found = layer(rows=1024)
    coarse, fine = (rate(found, with_spread(found, spread)) for spread in (3, 6))
    # Less what the rows of least sensitivity lack to a high rate at the coarse step.
    assert (fine.bits - coarse.bits) / found.matrix.size == pytest.approx(1, abs=0.1)
    assert coarse.loss / fine.loss == pytest.approx(4, rel=0.1)


def test_the_rate_is_that_of_the_parts():
    found = layer(rows=256)
    plan = with_spread(found, 2)
    parts = encode(found, plan).parts
    assert parts["codes"].size == pytest.approx(rate(found, plan).bits / 8, rel=0.01, abs=8)


def test_the_matrix_and_its_errors_are_those_of_the_parts():
    found = layer()
    result = encode(found, PLAN)
    np.testing.assert_array_equal(CodedMatrix.from_parts(result.parts, 48).matrix(), result.matrix)
    share = found.loss(result.matrix) / found.loss(np.zeros_like(result.matrix))
    assert result.certificate.weighted_error == share


def test_a_price_loses_less_at_the_same_bits():
    """At low rates the Lagrangian choice is on a lower curve: fewer bits at no more loss, for some price and step."""
    found = layer(rows=256)
    plain = rate(found, dataclasses.replace(PLAN, step=1.0))
    priced = [rate(found, dataclasses.replace(PLAN, step=step, price=0.12)) for step in np.geomspace(0.5, 1, 9)]
    losses = np.interp(plain.bits, [r.bits for r in reversed(priced)], [r.loss for r in reversed(priced)])
    assert losses < 0.95 * plain.loss


def test_row_scales_are_the_best_there_are():
    found = layer()
    plan = dataclasses.replace(PLAN, step=0.5, price=0.12)
    coded = CodedMatrix.from_parts(encode(found, plan).parts, 48)
    for factor in (1 - 2**-6, 1 + 2**-6):
        scaled = dataclasses.replace(coded.side, row_scales=coded.side.row_scales * np.float32(factor))
        other = dataclasses.replace(coded, side=scaled)
        worse = found.terms[0].losses(found.matrix.astype(np.float64) - other.matrix())
        best = found.terms[0].losses(found.matrix.astype(np.float64) - coded.matrix())
        # The metric that they are best in is damped.
        assert np.mean(best <= worse) > 0.95


def test_shares_add_up_and_have_a_floor():
    found = layer(dead_rows=16)
    assert row_shares(found, 0).sum() == pytest.approx(1)
    assert row_shares(found, 0.25).min() == 0.25 / 64
    some = found.rows(np.arange(0, 64, 7))
    np.testing.assert_array_equal(row_shares(some, 0.25), row_shares(found, 0.25)[::7])


def test_rows_that_do_not_count_are_not_starved():
    found = layer(dead_rows=16)
    parts = encode(found, dataclasses.replace(PLAN, step=0.05, floor=0.05)).parts
    coded = CodedMatrix.from_parts(parts, 48)
    assert np.abs(coded.numbers[:16]).sum(axis=1).min() > 0


def test_an_embedding_that_is_the_head_too():
    generator = np.random.default_rng(2)
    plain = layer()
    statistics = dataclasses.replace(
        plain.statistics, head_square=np.ones(48), head_fisher=np.exp(generator.normal(size=64))
    )
    hessian = np.asarray(plain.terms[0].columns)
    found = prepare(plain.matrix, PLAN.rotation, statistics, hessian)
    assert row_shares(found, 0).sum() == pytest.approx(1)
    coarse, fine = (rate(found, dataclasses.replace(PLAN, step=step)).loss for step in (0.02, 0.01))
    assert coarse / fine == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("matrix", [np.zeros((3, 5)), np.eye(2, 7), np.full((1, 1), 3.0)])
def test_small_and_empty_matrices_come_back(matrix):
    found = prepare(matrix.astype(np.float32), PLAN.rotation, None)
    result = encode(found, PLAN)
    parts = result.parts
    np.testing.assert_array_equal(CodedMatrix.from_parts(parts, matrix.shape[1]).matrix(), result.matrix)
    np.testing.assert_allclose(result.matrix, matrix, atol=0.05 * max(1, np.abs(matrix).max()))


def test_prices_follow_what_was_counted():
    classes = denominator._Classes(np.uint8([0]), np.uint8([0, 1]), -2)
    counts = np.array([[900, 50, 0], [100, 800, 100]])
    table = denominator._price_table(counts, classes, 1.0)
    assert table.shape == (2, 4)
    assert table[0, 0] < table[0, 1] < table[0, 2] < table[0, 3]
    assert table[1, 1] == pytest.approx(1 - np.log2(0.8), abs=0.1)
