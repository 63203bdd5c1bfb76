"""½ g_i² h_j w_ij²: the predicted loss, in nats per token, of setting a weight to zero (docs/notation.md).

With g_i² = E[(∂ℓ/∂y_i)²] it compares weights of different outputs, and the parts of different layers, in one unit: the
diagonal of the Fisher matrix (optimal brain damage). Within a row it orders weights as `wanda` does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mediant.methods.layer import Layer
from mediant.methods.pruning.patterns import Pattern
from mediant.methods.pruning.scores import Doubles, Mask, kept

REFERENCES = ("LeCun, Denker, Solla 1989, Optimal Brain Damage, NeurIPS 2",)
NEEDS = ("input_square", "output_fisher")


@dataclass(frozen=True)
class Influence:
    """No parameters."""

    def prune(self, layer: Layer, pattern: Pattern) -> tuple[Mask, Doubles]:
        """Returns the weights whose loss costs most."""
        scores = np.zeros(layer.matrix.shape)
        for term in layer.terms:
            columns = term.columns if term.columns.ndim == 1 else np.diag(term.columns)
            scores += 0.5 * term.rows[:, None] * columns * np.square(layer.matrix, dtype=np.float64)
        return kept(layer, scores, pattern)


METHOD = Influence
