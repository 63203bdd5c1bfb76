"""Balancing: factors by which columns are divided before rounding, so that rounding errs less where inputs are large.

Reading multiplies every column by its factor again, so that the matrix itself is unchanged but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mediant.methods.layer import Layer

Loss = Callable[[NDArray[np.float32]], float]


class Balancing(Protocol):
    """What a file in this folder offers as `METHOD`: a frozen dataclass with this member."""

    def factors(self, layer: Layer, loss: Loss) -> NDArray[np.float32]:
        """Returns the factor of every column, float32 [columns], positive bfloat16 numbers.

        Args:
            layer: the matrix and its metric.
            loss: predicted loss, in nats per token, with given factors.
        """
