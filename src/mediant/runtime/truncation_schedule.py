"""The dial from a whole nested model down to its least precision: which leading bits of each matrix a pass reads.

A precision is a number of bits. Where the file stores an order (allocation/plane_order.py), matrices are cut in that
order until a code of the model has so many bits on average, and `precisions` are a quarter of a bit apart; where it
does not, all matrices are cut alike, to whole bits.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from functools import cached_property

from mediant.errors import UsageError
from mediant.forms import Views

STEP = 0.25
# Precisions are told with two digits; what was read off a table must be found again.
DIGITS = 2


class TruncationSchedule:
    """Views of all matrices, in the order of the decoder's, for every precision."""

    def __init__(self, matrices: Sequence[Views]):
        self._matrices = matrices

    @property
    def precisions(self) -> tuple[float, ...]:
        """Precisions that can be read, in bits, ascending; a single one where the model is not stored nested."""
        if not self._cuts:
            return self._whole_bits
        least, most = (_rounded_up(self._means[end]) for end in (-1, 0))
        between = (STEP * n for n in range(math.floor(least / STEP) + 1, math.ceil(most / STEP)))
        return (least, *between, most)

    def views(self, precision: float | None) -> list[int]:
        """Returns the view of each matrix that a precision takes; None takes all bits.

        Raises:
            UsageError: the model cannot be read with so few bits.
        """
        if precision is None:
            return [0] * len(self._matrices)
        if precision < self.precisions[0]:
            known = ", ".join(f"{bits:g}" for bits in self.precisions)
            raise UsageError(f"The model cannot be read with {precision:g} bits; it has the precisions {known}.")
        if not self._cuts:
            return [_view(matrix, precision) for matrix in self._matrices]
        views = [0] * len(self._matrices)
        fits = bisect.bisect_left(self._means, -precision, key=lambda mean: -_rounded_up(mean))
        for _, number, view in self._cuts[:fits]:
            views[number] = max(views[number], view)
        return views

    @cached_property
    def _cuts(self) -> list[tuple[int, int, int]]:
        """Place, matrix and view of every cut, in order."""
        return sorted(
            (cut.place, number, matrix.bits.index(cut.bits))
            for number, matrix in enumerate(self._matrices)
            for cut in matrix.truncations
            if cut.bits in matrix.bits
        )

    @cached_property
    def _means(self) -> list[float]:
        """Bits of a code on average before any cut and after each, descending."""
        now = [matrix.code_bits(0) for matrix in self._matrices]
        total, weights = sum(now), sum(matrix.codes for matrix in self._matrices)
        means = [total / weights]
        for _, number, view in self._cuts:
            then = min(now[number], self._matrices[number].code_bits(view))
            total, now[number] = total + then - now[number], then
            means.append(total / weights)
        return means

    @property
    def _whole_bits(self) -> tuple[float, ...]:
        bit_widths = {bits for matrix in self._matrices for bits in matrix.bits}
        deepest = max((matrix.bits[0] for matrix in self._matrices if matrix.bits), default=0)
        return tuple(sorted(bit_widths)) if len(bit_widths) > 1 else (deepest or 32,)


def _view(matrix: Views, precision: float) -> int:
    """Returns the first view of a matrix with at most `precision` bits, else its last."""
    return next((i for i, bits in enumerate(matrix.bits) if bits <= precision), max(len(matrix.bits) - 1, 0))


def _rounded_up(bits: float) -> float:
    """In the digits that are told, and never less.

    >>> _rounded_up(2.0), _rounded_up(2.001)
    (2.0, 2.01)
    """
    unit = 10.0**DIGITS
    return math.ceil(round(bits * unit, 6)) / unit
