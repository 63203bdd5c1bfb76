"""The levels of `gaussian` on whole steps, so that kernels compute with them exactly in integers.

Minimises, like `gaussian`, the squared error for normally distributed weights, over tables of 2^b levels that are odd
multiples of 1/2, symmetric, and of 5, 6 and 7 bits without sign at 2 or 3, 4 and 5 bits (docs/theory/kernels.md). From
6 bits on levels are evenly spaced. Unlike `gaussian` it can be multiplied by activations as it is stored: a table of
float32 would have to be rounded by the kernel, which then computes something else than the file says. For reading
without kernels `gaussian` errs less.

Levels are in half steps; symmetric, without a level at 0.

Source: Max 1960, Quantizing for minimum distortion. Deviations: (1) rounded to odd numbers, at the scale at which that
costs least: 0.02, 0.9, 0.9 and 3.5 % of the squared error at 2 to 5 bits; (2) evenly spaced from 6 bits on.

Cost: a look-up.

>>> GaussianInt().levels(2).tolist()
[-11.5, -3.5, 3.5, 11.5]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

REFERENCES = ("Max 1960, Quantizing for minimum distortion, IRE Transactions on Information Theory 6(1)",)
NEEDS: tuple[str, ...] = ()

# Twice the positive levels.
HALVES = {
    1: (1,),
    2: (7, 23),
    3: (3, 9, 17, 27),
    4: (3, 9, 15, 21, 27, 35, 45, 59),
    5: (1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 43, 49, 55, 63, 73, 89),
}


@dataclass(frozen=True)
class GaussianInt:
    """Whole-step levels for the bell curve; it has no parameters."""

    @property
    def zero_point(self) -> bool:
        """False: groups store no zero."""
        return False

    def levels(
        self, bits: int, sample: NDArray[Any] | None = None, weights: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """Returns 2^bits levels; `sample` and `weights` are not looked at.

        Raises:
            ValueError: bits out of 1..8.
        """
        if not 1 <= bits <= 8:
            raise ValueError(f"a gaussian_int grid has 1 to 8 bits, not {bits}")
        positive = np.array(HALVES.get(bits, range(1, 1 << bits, 2))) / 2
        return np.concatenate([-positive[::-1], positive])


METHOD = GaussianInt
