"""Powers of two, or sums of a few of them: a product with a level is a shift, or a few shifts and additions.

Minimises nothing by itself. Relative error is about equal over the whole range, which suits values spread over many
octaves. Weights are not: from 4 bits on most levels crowd around 0, where they gain nothing, and the gap below the
largest level stays as wide as half of it ("rigid resolution" in the paper). Sums of two terms (APoT) mend that;
`uniform` and `lloyd` still have less squared error, so use this grid for its arithmetic.

Levels are in units of the scale s. With `terms` = 1 they are ±2^-k, k = 0, 1, .., and 0 or, with `zero` false, one
more power. With n terms a level is ± a sum p_0 + .. + p_(n-1), where

    p_i is 0 or 2^-(i + j n), j = 0, 1, .., 2^(k_i) - 2, and k_0 + .. + k_(n-1) = b - 1

share the bits beside the sign. The terms' exponents differ modulo n, so that no two sums are equal.

Rounding is to the nearest level in value, not in logarithm.

Source: Miyashita, Lee and Murmann 2016 (arXiv 1603.01025), section 3, for one term; Li, Dong and Wang 2020 (arXiv
1909.13144), equation (5), for more. Deviations: (1) where n does not divide b - 1 the first terms have one bit more;
(2) the factor that puts the largest level at 1 is left to the free scale.

Cost: O(2^b).

>>> Log2().levels(3).tolist()
[-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]
>>> Log2(terms=2).levels(4)[7:].tolist()
[0.0, 0.0625, 0.25, 0.5, 0.5625, 0.75, 1.0, 1.5]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

REFERENCES = (
    "Miyashita, Lee and Murmann 2016, CNNs using Logarithmic Data Representation, arXiv:1603.01025",
    "Li, Dong and Wang 2020, Additive Powers-of-Two Quantization, arXiv:1909.13144",
)
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Log2:
    """Sums of `terms` powers of two; `zero` false takes one more power instead of 0, with one term only."""

    zero: bool = True
    terms: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.terms <= 7:
            raise ValueError(f"a level is a sum of 1 to 7 terms, not {self.terms}")
        if self.terms > 1 and not self.zero:
            raise ValueError(f"a grid of sums of {self.terms} terms has a level at 0")

    @property
    def zero_point(self) -> bool:
        """No group stores a zero."""
        return False

    def levels(
        self, bits: int, sample: NDArray[Any] | None = None, weights: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """Returns 2^bits - 1 levels, or 2^bits without 0; `sample` and `weights` are not looked at.

        Raises:
            ValueError: bits above 8, or no more than the number of terms (1 is enough without 0).
        """
        fewest = 1 + self.terms if self.zero else 1
        if not fewest <= bits <= 8:
            raise ValueError(f"this grid of powers of two has {fewest} to 8 bits, not {bits}")
        magnitudes = sums(bits - 1, self.terms) if self.zero else 2.0 ** -np.arange(2 ** (bits - 1))
        return np.unique(np.concatenate((-magnitudes, magnitudes))) + 0.0  # no -0


METHOD = Log2


def sums(bits: int, terms: int) -> NDArray[np.float64]:
    """Returns the 2^bits sums of `terms` powers of two, 0 among them."""
    magnitudes = np.zeros(1)
    for i in range(terms):
        share = (bits - i + terms - 1) // terms
        powers = 2.0 ** -(i + terms * np.arange(2**share - 1))
        magnitudes = np.add.outer(magnitudes, np.concatenate(([0.0], powers))).ravel()
    return magnitudes
