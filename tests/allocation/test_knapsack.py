"""The allocator against brute force, and its laws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediant.allocation.knapsack import Allocation, Unit, allocate
from mediant.allocation.strategies.same_everywhere import allocate_same
from mediant.errors import SizeError


def unit(name: str, rows: int, columns: int, scale: float, bit_widths=(2, 3, 4)) -> Unit:
    sizes = {b: -(-rows * columns // 8) * b + 2 * rows for b in bit_widths}
    return Unit(name, rows, columns, sizes, {b: scale * 4.0**-b for b in bit_widths})


def cost(units: list[Unit], allocation: Allocation) -> int:
    """Bytes of the runs, counted anew: code planes per run, and two bytes a row."""
    columns = {u.tensor: u.columns for u in units}
    return sum(-(-r.rows * columns[t] // 8) * r.bits + 2 * r.rows for t, runs in allocation.runs.items() for r in runs)


def brute_force(units: list[Unit], budget: int) -> float:
    return min(
        (
            sum(u.losses[b] for u, b in zip(units, choice, strict=True))
            for choice in itertools.product(*(u.sizes for u in units))
            if sum(u.sizes[b] for u, b in zip(units, choice, strict=True)) <= budget
        ),
        default=np.inf,
    )


shapes = st.lists(st.tuples(st.integers(1, 9), st.integers(8, 40), st.floats(1e-3, 1e3)), min_size=1, max_size=5)


@settings(max_examples=150)
@given(shapes, st.floats(0, 1))
def test_never_worse_than_the_best_whole_choice_and_never_over(shapes, share):
    units = [unit(f"t{i}", *s) for i, s in enumerate(shapes)]
    low = sum(min(u.sizes.values()) for u in units)
    high = sum(max(u.sizes.values()) for u in units)
    budget = int(low + share * (high - low))
    allocation = allocate(units, budget)
    assert cost(units, allocation) <= budget
    assert allocation.loss <= brute_force(units, budget) * (1 + 1e-12)
    for u in units:
        assert sum(r.rows for r in allocation.runs[u.tensor]) == u.rows


def test_uses_the_budget_to_within_one_row():
    units = [unit("a", 100, 64, 1.0), unit("b", 50, 64, 2.0)]
    low, high = (sum(f(u.sizes.values()) for u in units) for f in (min, max))
    for budget in range(low, high, 37):
        used = cost(units, allocate(units, budget))
        assert budget - used <= 64 // 8 + 2 * 4  # a row of one more bit, and the ends of planes


@settings(max_examples=40)
@given(shapes)
def test_more_bytes_never_predict_more_loss(shapes):
    units = [unit(f"t{i}", *s) for i, s in enumerate(shapes)]
    low, high = (sum(f(u.sizes.values()) for u in units) for f in (min, max))
    whole = [brute_force(units, b) for b in range(low, high + 1, max(1, (high - low) // 20))]
    assert all(b <= a for a, b in itertools.pairwise(whole))


def test_a_size_that_is_too_small_names_the_smallest():
    units = [unit("a", 10, 80, 1.0)]
    with pytest.raises(SizeError, match=r"smallest.*\(1220 bytes\)"):
        allocate(units, 100, fixed=1000)


def test_a_size_that_is_too_large_names_the_largest():
    units = [unit("a", 10, 80, 1.0)]
    with pytest.raises(SizeError, match=r"\(1420 bytes\) is the largest"):
        allocate(units, 100_000, fixed=1000)


def test_same_everywhere_differs_by_at_most_one_bit():
    units = [unit(f"t{i}", 20, 64, 10.0**i, bit_widths=(2, 3, 4, 5)) for i in range(6)]
    low, high = (sum(f(u.sizes.values()) for u in units) for f in (min, max))
    for budget in range(low, high, 501):
        bit_widths = {r.bits for runs in allocate_same(units, budget).runs.values() for r in runs}
        assert max(bit_widths) - min(bit_widths) <= 1


def test_the_brute_force_comparator_fails_on_a_worse_choice():
    units = [unit("a", 4, 16, 1.0), unit("b", 4, 16, 100.0)]
    budget = units[0].sizes[4] + units[1].sizes[2]
    wrong = units[0].losses[4] + units[1].losses[2]
    assert wrong > brute_force(units, budget)
