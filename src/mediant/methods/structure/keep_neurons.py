"""Thins the MLP of every block to the neurons that are named; the same number in each, so the model stays ordinary.

A neuron is one row of every matrix that leads into it (with a gate: gate and up together, or its value would meet
another's gate) with its bias, and one column of the matrix that leads out. What is left computes exactly what the whole
block would with the other neurons at zero. Sister of `keep_heads` and `keep_hidden`. Which neurons to keep is for the
scores to say (methods/pruning/scores). Cost: none beside copying.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mediant.methods.structure import Config, Tensors
from mediant.methods.structure._index_sets import uniform
from mediant.models.blocks import Blocks, neuron_count

REFERENCES = (
    "Ma et al. 2023, LLM-Pruner: On the Structural Pruning of Large Language Models, 2305.11627, section 3.1",
)
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class KeepNeurons:
    """`neurons` has a set for each layer (methods/structure/_index_sets.py)."""

    neurons: Sequence[str] = ()

    def edited(self, config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
        """Returns the model with these neurons only."""
        blocks, name = Blocks.of(tensors), neuron_count(config)
        axes = list(blocks.neurons())
        count = tensors[axes[0].tensor].shape[axes[0].axis]
        kept = uniform(self.neurons, blocks.count, count, "neurons")
        thinned = {a.tensor: tensors[a.tensor].take(a.axis, kept[a.layer]) for a in axes}
        return {**config, name: len(kept[0])}, {**tensors, **thinned}


METHOD = KeepNeurons
