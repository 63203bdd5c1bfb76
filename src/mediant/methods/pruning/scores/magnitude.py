"""|w|: the plain baseline, which looks at no data. Sister `wanda` weighs it with the size of the input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mediant.methods.layer import Layer
from mediant.methods.pruning.patterns import Pattern
from mediant.methods.pruning.scores import Doubles, Mask, kept

REFERENCES = ("Han et al. 2015, Learning both Weights and Connections for Efficient Neural Networks, 1506.02626",)
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Magnitude:
    """No parameters."""

    def prune(self, layer: Layer, pattern: Pattern) -> tuple[Mask, Doubles]:
        """Returns the largest weights."""
        return kept(layer, np.abs(layer.matrix.astype(np.float64)), pattern)


METHOD = Magnitude
