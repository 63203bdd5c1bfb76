"""The Farey fractions ±F_N as whole numbers over their common denominator.

Minimises nothing by itself. F_N holds the fractions in lowest terms with denominators up to N; lcm(1..N) makes all of
them integers. Up to N = 6 (lcm 60) they fit in int8, and a product with a weight is an integer product. `rationals` is
the same set in units of the largest magnitude; being one set, they have the same squared error, more than that of
`uniform` at equal numbers of levels from N = 3 on, since a widest gap, 1/N, lies beside 0. Use it where an integer
table is wanted, or to measure that loss.

Levels are in units of the scale s: integers from -lcm to lcm up to N = 6, which makes s the step of the common
denominator; fractions from -1 to 1 beyond.

Source: Hardy and Wright, An Introduction to the Theory of Numbers, chapter III. |F_N| is about 3 N^2/π^2, so b bits
hold orders up to about 1.28 · 2^(b/2).

Cost: O(N^2 log N).

>>> Farey(3).levels(4).tolist()
[-6.0, -4.0, -3.0, -2.0, 0.0, 2.0, 3.0, 4.0, 6.0]
>>> [largest_order(bits) for bits in range(2, 9)]
[1, 2, 4, 6, 9, 13, 19]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediant.numbers import farey

REFERENCES = ("Hardy and Wright 2008, An Introduction to the Theory of Numbers, 6th edition, chapter III",)
NEEDS: tuple[str, ...] = ()

# lcm(1..6) = 60 is the last common denominator within int8.
LAST_INTEGER_ORDER = 6


@dataclass(frozen=True)
class Farey:
    """±F_order; None takes the largest order whose fractions fit."""

    order: int | None = None

    def __post_init__(self) -> None:
        if self.order is not None and self.order < 1:
            raise ValueError(f"a Farey sequence has an order from 1, not {self.order}")

    @property
    def zero_point(self) -> bool:
        """No group stores a zero."""
        return False

    def levels(
        self, bits: int, sample: NDArray[Any] | None = None, weights: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """Returns the fractions times lcm(1..order) up to order 6; `sample` and `weights` are not looked at.

        Raises:
            ValueError: bits out of 2..8, or too few for the order.
        """
        order = fitting_order(bits, self.order)
        if order > LAST_INTEGER_ORDER:
            return signed_fractions(order)
        return np.rint(signed_fractions(order) * farey.common_denominator(order))


METHOD = Farey


def fitting_order(bits: int, order: int | None) -> int:
    """`order`, or the largest that fits; ValueError if it does not fit in `bits`, or bits are out of 2..8."""
    if not 2 <= bits <= 8:
        raise ValueError(f"a grid of fractions has 2 to 8 bits, not {bits}")
    if order is None:
        return largest_order(bits)
    if order > largest_order(bits):
        count = 2 * farey.length(order) - 1
        raise ValueError(f"the {count} fractions of order {order} need {(count - 1).bit_length()} bits, not {bits}")
    return order


def largest_order(bits: int) -> int:
    """Returns the largest order with at most 2^bits fractions in [-1, 1], from 2 bits on."""
    order = 1
    while 2 * farey.length(order + 1) - 1 <= 2**bits:
        order += 1
    return order


def signed_fractions(order: int) -> NDArray[np.float64]:
    """±F_order, ascending, each rounded once to float64."""
    p, q = farey.sequence(order)
    return np.concatenate((-(p / q)[:0:-1], p / q))
