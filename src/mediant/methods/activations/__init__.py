"""Activations: inputs of linear layers rounded to whole steps, and how large they may get before they are clipped.

A *static* step is fixed beforehand from a calibration text by a method of this folder; a *dynamic* one is found for
every token at run time from its largest magnitude, which no text can get wrong, at the price of a pass over the token.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Range(Protocol):
    """What a file in this folder offers as `METHOD`: a frozen dataclass with this member."""

    def thresholds(self, samples: Floats, bits: int) -> Floats:
        """For each group of inputs the magnitude that the largest level stands for; what is beyond is clipped.

        Args:
            samples: magnitudes of inputs [groups, n], n > 0, the largest that occurred among them.
            bits: of a level, 2 to 16.

        Returns:
            float32 [groups], in the unit of the inputs.
        """


def largest_level(bits: int) -> int:
    """Levels are the whole numbers from minus this to this.

    >>> largest_level(8)
    127
    """
    return (1 << (bits - 1)) - 1


def rounded(x: torch.Tensor, step: torch.Tensor | float, bits: int) -> torch.Tensor:
    """Returns the nearest multiples of `step` that `bits` bits can say; a step of 0 gives zeros.

    >>> rounded(torch.tensor([0.4, 0.6, 500.0]), 1.0, 8).tolist()
    [0.0, 1.0, 127.0]
    """
    steps = torch.as_tensor(step, dtype=x.dtype)
    most = largest_level(bits)
    levels = (x / torch.where(steps > 0, steps, 1)).round().clamp(-most, most)
    return levels * steps


def dynamic_step(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Returns the step of every token of x [..., features] that clips nothing, [..., 1]."""
    return x.abs().amax(-1, keepdim=True) / largest_level(bits)
