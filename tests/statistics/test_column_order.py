"""Orders are permutations that keep groups together, and are worth having."""

from __future__ import annotations

import numpy as np
import pytest

from mediant.statistics.column_order import column_order
from mediant.statistics.metric_factors import factorize


def metric(columns, seed=0):
    g = np.random.default_rng(seed)
    inputs = g.normal(size=(columns, 3 * columns)) * np.exp(g.normal(size=(columns, 1)))
    return inputs @ inputs.T / (3 * columns)


@pytest.mark.parametrize("name", ["largest", "pivot"])
@pytest.mark.parametrize(("columns", "group"), [(1, 4), (7, 3), (12, 4), (9, 16), (10, 1)])
def test_groups_stay_together_and_a_shorter_one_stays_last(name, columns, group):
    order = column_order(metric(columns), group, name)
    assert sorted(order) == list(range(columns))
    for start in range(0, columns, group):
        assert len(set(order[start : start + group] // group)) == 1
    assert (order[columns // group * group :] >= columns // group * group).all()


@pytest.mark.parametrize("name", ["largest", "pivot"])
def test_without_groups_less_is_left_to_the_columns(name):
    for seed in range(10):
        m = metric(24, seed)
        kept, natural = (factorize(m, column_order(m, 1, n)).conditional.sum() for n in (name, "natural"))
        assert kept < natural


def test_pivots_are_the_least_at_each_step():
    m = metric(12)
    order = column_order(m, 1, "pivot")
    for place in range(11, -1, -1):
        later = order[place + 1 :]
        left = [
            m[j, j] - m[j, later] @ np.linalg.solve(m[np.ix_(later, later)], m[later, j]) if len(later) else m[j, j]
            for j in order[: place + 1]
        ]
        assert left[-1] == min(left)


def test_other_orders_are_refused():
    with pytest.raises(ValueError, match="natural, largest or pivot"):
        column_order(metric(4), 2, "smallest")
