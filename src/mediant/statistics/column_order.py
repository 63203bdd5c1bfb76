"""The order in which columns are rounded against a metric, and why it matters: what comes early can be made good later.

Rounding column j costs d_j = the variance of input j that the columns after it do not explain, so an order is good that
keeps sum_j d_j small; its product is det M in any order. Columns of a group share a scale, which has to be found when
the first of them comes, so groups stay together, and the last one, which may be shorter, stays last: then the order
is undone before anything is stored, and costs no byte.

`largest`: groups by their mean diagonal, columns in a group by their diagonal, largest first (GPTQ's act-order, Frantar
et al. 2022). `pivot`: from the last column to the first, each time the column that those already placed explain best,
the group by its mean (minimal pivots, Chen et al. 2025, arXiv 2507.18553, section 5).

`pairs`: the two columns of every pair of a codebook behind one another (kernels/pairs.py).

>>> column_order(np.diag([1.0, 2, 5, 4]), 2, "largest").tolist()
[2, 3, 1, 0]
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mediant.kernels.pairs import pair_order

Doubles = NDArray[np.float64]
Order = NDArray[np.int64]

ORDERS = NATURAL, LARGEST, PIVOT = ("natural", "largest", "pivot")
# Not to be chosen: it comes with a grid of pairs.
PAIRS = "pairs"


def column_order(metric: Doubles, group: int, name: str) -> Order | None:
    """Orders the columns for a positive definite metric [n, n]; None for the natural order.

    Raises:
        ValueError: there is no such order.
    """
    if name == NATURAL:
        return None
    if name == PAIRS:
        return pair_order(len(metric))
    if name == LARGEST:
        return _largest(metric, group)
    if name == PIVOT:
        return _pivot(metric, group)
    raise ValueError(f"columns are rounded in the order natural, largest or pivot, not {name!r}")


def _largest(metric: Doubles, group: int) -> Order:
    diagonal = np.diag(metric)
    groups, rest = _groups(len(metric), group)
    inside = [g[np.argsort(-diagonal[g], kind="stable")] for g in groups]
    ranked = sorted(inside, key=lambda g: -float(diagonal[g].mean()))
    return np.concatenate([*ranked, rest[np.argsort(-diagonal[rest], kind="stable")]])


def _pivot(metric: Doubles, group: int) -> Order:
    left = metric.copy()
    waiting, rest = _groups(len(metric), group)
    placed: list[int] = []
    _place(left, rest, placed)
    while waiting:
        diagonal = np.diag(left)
        chosen = min(range(len(waiting)), key=lambda i: float(diagonal[waiting[i]].mean()))
        _place(left, waiting.pop(chosen), placed)
    return np.array(placed[::-1], np.int64)


def _place(left: Doubles, columns: Order, placed: list[int]) -> None:
    """Takes the columns of a group, each time the one with the least left, and takes out what it explains."""
    open_ = list(columns)
    while open_:
        column = min(open_, key=lambda j: float(left[j, j]))
        open_.remove(column)
        placed.append(int(column))
        factor = left[column] / np.sqrt(max(float(left[column, column]), np.finfo(np.float64).tiny))
        left -= np.outer(factor, factor)


def _groups(columns: int, group: int) -> tuple[list[Order], Order]:
    """Whole groups, and the columns of a shorter last one."""
    whole = columns // group * group
    return list(np.arange(whole, dtype=np.int64).reshape(-1, group)), np.arange(whole, columns, dtype=np.int64)
