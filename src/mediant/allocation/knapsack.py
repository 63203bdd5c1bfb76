"""Which part of a model gets how many bits: least predicted loss under an exact byte budget.

Minimises sum_u D_u(b_u) subject to sum_u bytes_u(b_u) <= budget over one bit width b_u for each unit u: the
multiple-choice knapsack problem. It is solved exactly on a grid of bytes (dynamic programming; Kellerer, Pferschy
and Pisinger 2004, chapter 11), every size rounded up, so the budget is never exceeded and a larger one never
predicts more loss. A Lagrange multiplier would find only the convex hull of choices. Then one unit is split by rows
to use what rounding left. Cost: units x bit widths x 2^18 additions.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mediant.planning.size import check_range
from mediant.values import RowSpan

CELLS = 1 << 18
# Where a unit has dozens of options instead of seven bit widths.
FEWER_CELLS = 1 << 15
# The part of a budget that may stay unused where no bit width predicts any gain for it.
SPARE = 1 / 2000


@dataclass(frozen=True)
class Unit:
    """Consecutive rows of one tensor that get one bit width: bytes and predicted loss at each bit width on offer.

    Rows are stored `together` at a time, with `columns` each, filled up with zeros where there are fewer.
    """

    tensor: str
    rows: int
    columns: int
    sizes: Mapping[int, int]
    losses: Mapping[int, float]
    together: int = 1


@dataclass(frozen=True)
class Allocation:
    """Runs for each tensor, their payload in bytes, and the loss predicted for them."""

    runs: Mapping[str, tuple[RowSpan, ...]]
    bytes: int
    loss: float


def allocate(units: Sequence[Unit], budget: int, fixed: int = 0) -> Allocation:
    """Bit widths of all units within `budget` bytes; `fixed` bytes of other things are only named in the refusal.

    Raises:
        SizeError: not even the smallest bit widths fit, or the largest leave more than half a percent unused.
    """
    smallest = sum(min(u.sizes.values()) for u in units)
    largest = sum(max(u.sizes.values()) for u in units)
    check_range(budget + fixed, smallest + fixed, largest + fixed)
    bit_widths = _knapsack(units, budget, largest)
    return _split_one(units, bit_widths, budget)


def choose_whole(units: Sequence[Unit], budget: int) -> list[int]:
    """Returns an option of every unit, none split, within `budget` bytes, which is at least the sum of the smallest
    sizes.
    """
    largest = sum(max(u.sizes.values()) for u in units)
    picked = _knapsack(units, budget, largest, FEWER_CELLS)
    left = budget - sum(u.sizes[i] for u, i in zip(units, picked, strict=True))
    _fill(units, picked, left, int(SPARE * budget))
    return picked


def predicted_loss(units: Sequence[Unit], runs: Mapping[str, Sequence[RowSpan]]) -> float:
    """Returns the loss predicted for runs that need not end where units end: each unit counts by the rows at each bit
    width.
    """
    pending = {name: deque(given) for name, given in runs.items()}
    total = 0.0
    for unit in units:
        left = unit.rows
        while left:
            run = pending[unit.tensor].popleft()
            rows = min(left, run.rows)
            total += unit.losses[run.bits] * rows / unit.rows
            left -= rows
            if rows < run.rows:
                pending[unit.tensor].appendleft(RowSpan(run.rows - rows, run.bits))
    return total


def _knapsack(units: Sequence[Unit], budget: int, largest: int, most_cells: int = CELLS) -> list[int]:
    quantum = 1 << max(0, (largest // most_cells).bit_length())
    # Rounding every size up must not make a feasible budget infeasible, so the smallest sizes are paid exactly.
    floor = [min(u.sizes.values()) for u in units]
    cells = (budget - sum(floor)) // quantum
    best = np.zeros(cells + 1)
    picks = np.empty((len(units), cells + 1), np.uint8)
    options = [sorted(u.sizes) for u in units]
    for i, unit in enumerate(units):
        total = np.full(cells + 1, np.inf)
        for k, bits in enumerate(options[i]):
            extra = -(-(unit.sizes[bits] - floor[i]) // quantum)
            if extra > cells:
                continue
            candidate = best[: cells + 1 - extra] + unit.losses[bits]
            better = candidate < total[extra:]
            total[extra:][better] = candidate[better]
            picks[i, extra:][better] = k
        best = total
    bit_widths = [0] * len(units)
    cell = int(np.argmin(best))
    for i in reversed(range(len(units))):
        bit_widths[i] = options[i][picks[i, cell]]
        cell -= -(-(units[i].sizes[bit_widths[i]] - floor[i]) // quantum)
    return bit_widths


def _split_one(units: Sequence[Unit], bit_widths: list[int], budget: int) -> Allocation:
    left = budget - sum(u.sizes[b] for u, b in zip(units, bit_widths, strict=True))
    spare = int(SPARE * budget)
    left -= _fill(units, bit_widths, left, spare)
    split, rows, gain = _best_split(units, bit_widths, left, spare)
    runs: dict[str, list[RowSpan]] = {}
    total = 0
    for i, (unit, bits) in enumerate(zip(units, bit_widths, strict=True)):
        pieces = [RowSpan(unit.rows, bits)]
        if i == split:
            pieces = [RowSpan(rows, _next(unit, bits)), RowSpan(unit.rows - rows, bits)]
            total += _split_bytes(unit, bits, rows)
        else:
            total += unit.sizes[bits]
        runs.setdefault(unit.tensor, []).extend(pieces)
    loss = sum(u.losses[b] for u, b in zip(units, bit_widths, strict=True)) - (gain if rows else 0.0)
    return Allocation({name: merged(r) for name, r in runs.items()}, total, loss)


def _fill(units: Sequence[Unit], bit_widths: list[int], left: int, spare: int) -> int:
    """Raises whole units to their next bit width while they fit, best gain per byte first; returns the bytes used.

    Where nothing is predicted to gain, `spare` bytes may stay; more are used all the same, since a size is a promise.
    """
    used = 0
    while True:
        options = []
        for i, (unit, bits) in enumerate(zip(units, bit_widths, strict=True)):
            if (higher := _next(unit, bits)) != bits:
                cost = unit.sizes[higher] - unit.sizes[bits]
                gain = unit.losses[bits] - unit.losses[higher]
                if cost <= left - used and (gain > 0 or left - used > spare):
                    options.append((gain / max(cost, 1), i, higher, cost))
        if not options:
            return used
        _, i, bit_widths[i], cost = max(options)
        used += cost


def _best_split(units: Sequence[Unit], bit_widths: Sequence[int], left: int, spare: int) -> tuple[int, int, float]:
    """Returns the unit whose first rows are worth most when raised by one bit width within `left` bytes: index, rows,
    gain.
    """
    best = (-1, 0, 0.0 if left <= spare else -math.inf)
    for i, (unit, bits) in enumerate(zip(units, bit_widths, strict=True)):
        higher = _next(unit, bits)
        if higher == bits:
            continue
        rows = min(unit.rows - 1, max(0, left - 2 * higher) * 8 // (unit.columns * (higher - bits)))
        rows -= rows % unit.together
        while rows > 0 and _split_bytes(unit, bits, rows) > unit.sizes[bits] + left:
            rows -= unit.together
        gain = (unit.losses[bits] - unit.losses[higher]) * rows / unit.rows
        if rows > 0 and gain > best[2]:
            best = (i, rows, gain)
    return best


def _next(unit: Unit, bits: int) -> int:
    return min((b for b in unit.sizes if b > bits), default=bits)


def _split_bytes(unit: Unit, bits: int, rows: int) -> int:
    """Returns the bytes when the first `rows` get the next bit width: the code planes change, all else stays."""

    def planes(count: int, bit_width: int) -> int:
        return -(-count // unit.together * unit.together * unit.columns // 8) * bit_width

    codes = planes(rows, _next(unit, bits)) + planes(unit.rows - rows, bits)
    return unit.sizes[bits] - planes(unit.rows, bits) + codes


def merged(runs: Sequence[RowSpan]) -> tuple[RowSpan, ...]:
    """Neighbouring runs of equal bit width as one."""
    merged: list[RowSpan] = []
    for run in runs:
        if merged and merged[-1].bits == run.bits:
            merged[-1] = RowSpan(merged[-1].rows + run.rows, run.bits)
        else:
            merged.append(run)
    return tuple(merged)
