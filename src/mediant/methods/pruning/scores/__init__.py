"""Scores: which weights are worth least."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mediant.methods.layer import Layer
from mediant.methods.pruning.patterns import Pattern

Mask = NDArray[np.bool_]
Doubles = NDArray[np.float64]


class Score(Protocol):
    """What a file in this folder offers as `METHOD`: a frozen dataclass with this member."""

    def prune(self, layer: Layer, pattern: Pattern) -> tuple[Mask, Doubles]:
        """Chooses what to keep of a layer's matrix [rows, columns], and finds the weights there, 0 elsewhere."""


def kept(layer: Layer, scores: Doubles, pattern: Pattern) -> tuple[Mask, Doubles]:
    """Returns the weights of the highest scores, unchanged."""
    mask = pattern.mask(scores)
    return mask, np.where(mask, layer.matrix.astype(np.float64), 0.0)
