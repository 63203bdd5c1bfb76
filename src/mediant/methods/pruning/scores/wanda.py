"""|w_ij| · √h_j with h_j = E[x_j²]: a weight counts by what it adds to its output, and none is changed.

Minimises sum_i E[(Σ_j (w_ij − ŵ_ij) x_j)²] as if inputs were uncorrelated. `sparsegpt` takes correlations into account
and mends what is left; `influence` also weighs outputs, which matters only where weights of several rows are compared.
Deviation 1: the paper sums squares over all tokens, the mean orders weights alike. Cost: one pass over the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mediant.methods.layer import Layer
from mediant.methods.pruning.patterns import Pattern
from mediant.methods.pruning.scores import Doubles, Mask, kept

REFERENCES = ("Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models, 2306.11695, eq. 1",)
NEEDS = ("input_square",)


@dataclass(frozen=True)
class Wanda:
    """No parameters."""

    def prune(self, layer: Layer, pattern: Pattern) -> tuple[Mask, Doubles]:
        """Returns the weights that add most to their outputs."""
        h = np.ones(layer.matrix.shape[1]) if layer.statistics is None else layer.statistics.input_square
        return kept(layer, np.abs(layer.matrix.astype(np.float64)) * np.sqrt(h), pattern)


METHOD = Wanda
