"""Levels for codes that can be read at several precisions: the leading bits of a code have tables of their own.

Minimises sum_r E (x - l_r(p >> (b - r)))^2 / D_r over all tables l_r and over the code p of each x ~ N(0, 1), r from 2
to b = 4, with D_r the least error that codes of r bits can have alone. With a rotation and the rounding of the same
name, one file then holds a good model of every bit width; a file that is only ever read whole is better off with
`gaussian`.

Weight by weight, tables of their own cost 0.03, 0.01 and 0.03 dB at 2, 3 and 4 bits against codes made for one bit
width alone; if a level of leading bits were the mean of those below it, 0.41, 0.05 and 0.27 dB; here, on whole steps,
0.03, 0.05 and 0.08 dB. Errors that are carried on cost far more (methods/rounding/nested.py).

Levels are in steps of the deepest table; each is a whole or half multiple of a step of its own, so that kernels can
compute with it in integers. Symmetric, without a level at 0.

Source: Lloyd 1982, method I, on all tables at once; the weights make every precision's share of loss count alike.
Deviations: (1) tables are free at each bit width; (2) rounded to multiples of 1, 61/32 and 103/64 at 4, 3 and 2 bits.

Cost: a look-up.

>>> Nested().levels(2).tolist()
[-18.5078125, -5.6328125, 5.6328125, 18.5078125]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

REFERENCES = (
    "Lloyd 1982, Least squares quantization in PCM, IEEE Transactions on Information Theory 28(2)",
    "Nair et al. 2025, Matryoshka Quantization, arXiv:2502.06786",
)
NEEDS: tuple[str, ...] = ()

# By bit width: a step, and twice the positive levels in such steps.
TABLES = {
    2: (103 / 64, (7, 23)),
    3: (61 / 32, (3, 9, 17, 27)),
    4: (1.0, (3, 9, 15, 21, 29, 37, 47, 63)),
}
# The squared error of Lloyd-Max codes of these bit widths alone, for the standard normal distribution (Max 1960, table
# I).
ALONE = {2: 0.1175, 3: 0.03454, 4: 0.009497}


@dataclass(frozen=True)
class Nested:
    """Levels of codes of 2, 3 or 4 bits whose leading bits are codes too; it has no parameters."""

    @property
    def zero_point(self) -> bool:
        """False: groups store no zero."""
        return False

    def levels(
        self, bits: int, sample: NDArray[Any] | None = None, weights: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """Returns 2^bits levels; `sample` and `weights` are not looked at.

        Raises:
            ValueError: bits out of 2..4.
        """
        if bits not in TABLES:
            raise ValueError(f"a nested grid has 2 to 4 bits, not {bits}")
        step, halves = TABLES[bits]
        positive = np.array(halves) * step / 2
        return np.concatenate([-positive[::-1], positive])

    def leading(self, bits: int) -> tuple[int, ...]:
        """Returns the bit widths that codes of so many bits can also be read at, less than `bits`."""
        return tuple(bit_width for bit_width in TABLES if bit_width < bits)


def readings(bits: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the level of every code of `bits` bits at each bit width it can be read at, and what an error there
    counts.

    Levels [readings, 2^bits], weights [readings], the deepest first.
    """
    grid = Nested()
    bit_widths = (bits, *reversed(grid.leading(bits)))
    table = np.stack([np.repeat(grid.levels(bit_width), 1 << (bits - bit_width)) for bit_width in bit_widths])
    return table, np.array([ALONE[bits] / ALONE[bit_width] for bit_width in bit_widths])


METHOD = Nested
