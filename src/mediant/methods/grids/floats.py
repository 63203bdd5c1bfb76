"""The finite values of a small floating-point format, as hardware has them.

Minimises nothing by itself; between `uniform` and `log2`, with equal steps within an octave and as many in the next.
Choose it where the hardware multiplies this format. Squared error against `uniform`, with exact scales on groups of
64: e2m1 has 14 % more on Gaussian weights and 22 % less on Laplacian ones, and `lloyd` less than both; fp8 has several
times more, unless a group spans many octaves.

Levels are the format's values themselves, in units of the scale s, so they reach 6, 448 or 57344. +0 and -0 are one
level, and there are none for infinities and NaN: 15 levels of e2m1, 253 of e4m3, 247 of e5m2.

Source: Micikevicius et al. 2022 (arXiv 2209.05433), table 1, for fp8; Rouhani et al. 2023 (arXiv 2310.10537), table 1,
for fp4.

Cost: O(2^b).

>>> Floats().levels(4)[7:].tolist()
[0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

REFERENCES = (
    "Micikevicius et al. 2022, FP8 Formats for Deep Learning, arXiv:2209.05433",
    "Rouhani et al. 2023, Microscaling Data Formats for Deep Learning, arXiv:2310.10537",
)
NEEDS: tuple[str, ...] = ()


class Layout(NamedTuple):
    """Bits after the sign, and how many of the largest patterns are infinity or NaN."""

    exponent_bits: int
    mantissa_bits: int
    reserved: int


LAYOUTS = {"fp4_e2m1": Layout(2, 1, 0), "fp8_e4m3": Layout(4, 3, 1), "fp8_e5m2": Layout(5, 2, 4)}


@dataclass(frozen=True)
class Floats:
    """The finite values of `format`: fp4_e2m1, fp8_e4m3 or fp8_e5m2."""

    format: str = "fp4_e2m1"

    def __post_init__(self) -> None:
        if self.format not in LAYOUTS:
            raise ValueError(f"the format {self.format!r} is not one of {', '.join(LAYOUTS)}")

    @property
    def zero_point(self) -> bool:
        """No group stores a zero."""
        return False

    def levels(
        self, bits: int, sample: NDArray[Any] | None = None, weights: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """Returns the format's finite values; `sample` and `weights` are not looked at.

        Raises:
            ValueError: bits are not those of the format.
        """
        layout = LAYOUTS[self.format]
        own = 1 + layout.exponent_bits + layout.mantissa_bits
        if bits != own:
            raise ValueError(f"the format {self.format} has {own} bits, not {bits}")
        magnitudes = finite_magnitudes(layout)
        return np.concatenate((-magnitudes[:0:-1], magnitudes))


METHOD = Floats


def finite_magnitudes(layout: Layout) -> NDArray[np.float64]:
    """Values of the bit patterns without sign, ascending from 0."""
    hidden = 2**layout.mantissa_bits
    bias = 2 ** (layout.exponent_bits - 1) - 1
    patterns = np.arange(hidden * 2**layout.exponent_bits - layout.reserved)
    exponent, fraction = np.divmod(patterns, hidden)
    # Exponent 0 marks subnormal numbers: no hidden bit, and the exponent of 1.
    significand = np.where(exponent > 0, hidden + fraction, fraction).astype(np.float64)
    magnitudes: NDArray[np.float64] = np.ldexp(significand, np.maximum(exponent, 1) - bias - layout.mantissa_bits)
    return magnitudes
