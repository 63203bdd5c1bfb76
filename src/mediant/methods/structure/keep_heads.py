"""Thins the attention of every block to the groups of heads that are named: a key and value head with its queries.

With grouped-query attention several query heads read one key and value head, and all groups are equally large; only
whole groups can go without changing which query reads which key. A group is its rows of the query, key and value
matrices with their biases, and its columns of the output matrix. What is left computes exactly what the whole block
would with the other heads at zero. Sister of `keep_neurons`; it also makes the cache smaller. Cost: none.

Not for models whose heads follow from the hidden width (OPT, GPT-2, Phi): fewer heads would be wider ones there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mediant.errors import PlanError
from mediant.methods.structure import Config, Tensors
from mediant.methods.structure._index_sets import uniform
from mediant.models.blocks import Blocks

REFERENCES = (
    "Michel et al. 2019, Are Sixteen Heads Really Better than One?, 1905.10650",
    "Ainslie et al. 2023, GQA: Training Generalized Multi-Query Transformer Models, 2305.13245",
)
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class KeepHeads:
    """`groups` has a set of key and value heads for each layer (methods/structure/_index_sets.py)."""

    groups: Sequence[str] = ()

    def edited(self, config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
        """Returns the model with these heads only."""
        blocks = Blocks.of(tensors)
        if not blocks.scheme.free_heads:
            raise PlanError(
                "In this model the size of a head follows from the hidden width, so heads cannot be pruned."
            )
        heads = int(config["num_attention_heads"])
        groups = int(config.get("num_key_value_heads") or heads)
        size = tensors[blocks.name(0, blocks.scheme.query)].shape[0] // heads
        kept = uniform(self.groups, blocks.count, groups, "heads")
        wide, narrow = size * heads // groups, size
        thinned = {a.tensor: tensors[a.tensor].take(a.axis, _rows(kept[a.layer], wide)) for a in blocks.queries()}
        thinned |= {a.tensor: tensors[a.tensor].take(a.axis, _rows(kept[a.layer], narrow)) for a in blocks.groups()}
        counts = {"num_attention_heads": heads // groups * len(kept[0]), "num_key_value_heads": len(kept[0])}
        return {**config, **counts, "head_dim": size}, {**tensors, **thinned}


def _rows(groups: Sequence[int], width: int) -> list[int]:
    """Returns the rows of some groups, each of `width` neighbouring rows."""
    return [group * width + row for group in groups for row in range(width)]


METHOD = KeepHeads
