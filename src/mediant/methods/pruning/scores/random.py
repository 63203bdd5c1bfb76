"""Any weights at all: what every other score has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mediant.methods.layer import Layer
from mediant.methods.pruning.patterns import Pattern
from mediant.methods.pruning.scores import Doubles, Mask, kept

REFERENCES: tuple[str, ...] = ()
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Random:
    """`seed` of the choice, the same for every matrix of one shape."""

    seed: int = 0

    def prune(self, layer: Layer, pattern: Pattern) -> tuple[Mask, Doubles]:
        """Evenly drawn weights."""
        return kept(layer, np.random.default_rng(self.seed).random(layer.matrix.shape), pattern)


METHOD = Random
