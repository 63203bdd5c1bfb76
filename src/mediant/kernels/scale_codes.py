"""Group scales in a few bits each, relative to a row scale.

A scale is row_scale * (-1)^sign * 2^(-k/steps), with the sign, where there is one, in the top bit of a code and k below
it; k = all ones means 0. The constants 2^(-k/steps) are rounded to float32, and so is the product. With 16 bits a
group's scale is a bfloat16 of its own, and so is the row scale: a scale needs range more than precision, since the
integer codes are chosen for the scale as it is stored.

How few bits: on rotated weights of SmolLM2 at 3 bits, 3 bits of k in steps of a quarter octave err 2 % more than 5 bits
in steps of an eighth, and the bits saved are worth more than that (docs/log.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediant.kernels.bfloat16 import from_float32, to_float32

FULL = 16
MOST_STEPS = 64


@dataclass(frozen=True)
class ScaleForm:
    """How a tensor's scales are stored: `bits` 16, or 2 to 8 of which one is a sign if `signed`."""

    bits: int
    signed: bool = True
    steps: int = 8

    def __post_init__(self) -> None:
        if self.bits != FULL and not 2 + self.signed <= self.bits <= 8:
            raise ValueError(f"scales take 16 bits or {2 + self.signed} to 8, not {self.bits}")
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"scales take 1 to {MOST_STEPS} steps an octave, not {self.steps}")

    @property
    def magnitude_bits(self) -> int:
        """Bits of k."""
        return self.bits - self.signed

    def powers(self) -> NDArray[np.float32]:
        """2^(-k/steps) for every k, and 0 for the last."""
        k = np.arange(1 << self.magnitude_bits)
        powers = np.exp2(-k / self.steps).astype(np.float32)
        powers[-1] = 0
        return powers


def encode_scales(scale: NDArray[np.float32], form: ScaleForm) -> dict[str, NDArray[Any]]:
    """Parts for scales [rows, groups]: `scales`, or `row_scales` [rows] and unpacked `scale_codes` [rows, groups].

    Where the form has no sign, the sign of a scale is lost; that is right for a grid that is its own mirror image.
    """
    if form.bits == FULL:
        return {"scales": from_float32(scale)}
    powers = form.powers()
    # Rounded up, so that no group's scale exceeds the row's.
    row = to_float32(from_float32(np.abs(scale).max(axis=1) * np.float32(1 + 2**-8)))
    with np.errstate(divide="ignore", invalid="ignore"):
        octaves = np.log2(row[:, None].astype(np.float64) / np.abs(scale))
    k = np.rint(octaves * form.steps).clip(0, len(powers) - 2)
    k = np.where(scale == 0, len(powers) - 1, k).astype(np.uint8)
    sign = (np.signbit(scale) & form.signed).astype(np.uint8) << form.magnitude_bits
    return {"row_scales": from_float32(row), "scale_codes": sign.astype(np.uint8) | k}


def decode_scales(parts: dict[str, NDArray[Any]], form: ScaleForm) -> NDArray[np.float32]:
    """Scales [rows, groups] from what `encode_scales` gives; float32."""
    if form.bits == FULL:
        return to_float32(parts["scales"])
    powers = form.powers()
    code = parts["scale_codes"].astype(np.int64)
    magnitude = powers[code & (len(powers) - 1)]
    factor = np.where(code >> form.magnitude_bits, -magnitude, magnitude)
    scale: NDArray[np.float32] = to_float32(parts["row_scales"])[:, None] * factor
    return scale
