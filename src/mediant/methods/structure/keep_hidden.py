"""Narrows the hidden width of the whole model to the components that are named.

All blocks add to one residual stream, so a component goes everywhere at once: its column of every matrix that reads the
stream, its row of every matrix that writes it, its entry of every norm. RMS norms divide by the mean square over the
components that are left, which is another one than before; `gains` make up for that on average, one factor for each
norm. Sister of `keep_neurons`; the harshest of them, since every layer loses the same components.

For models with RMS norms of plain gains (Llama, Mistral, Qwen, SmolLM). Cost: none beside copying.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch

from mediant.errors import PlanError
from mediant.methods.structure import Config, Tensors
from mediant.methods.structure._index_sets import from_text
from mediant.models.blocks import Blocks

REFERENCES = (
    "Ashkboos et al. 2024, SliceGPT: Compress Large Language Models by Deleting Rows and Columns, 2401.15024;"
    " deviation 1: components as they are, not principal ones, which would need adapters between blocks",
)
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class KeepHidden:
    """`hidden` is the set of components to keep; `gains` are factors by the names of norms' weights, 1 elsewhere."""

    hidden: str = ""
    gains: Mapping[str, float] = field(default_factory=dict)

    def edited(self, config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
        """Returns the model with these components only."""
        blocks = Blocks.of(tensors)
        if not blocks.scheme.norms or str(config.get("model_type", "")).startswith("gemma"):
            raise PlanError("The hidden width can only be pruned in models with RMS norms of plain gains.")
        kept = from_text(self.hidden, int(config["hidden_size"]))
        if not kept:
            raise PlanError("The hidden width to keep is 0.")
        narrowed = {a.tensor: tensors[a.tensor].take(int(a.axis), kept) for a in blocks.hidden()}
        for name, gain in self.gains.items():
            if name not in narrowed:
                raise PlanError(f"There is no norm {name!r} whose gain could change.")
            narrowed[name] = narrowed[name].map(partial(torch.mul, other=torch.tensor(gain, dtype=torch.float64)))
        heads = int(config["num_attention_heads"])
        size = tensors[blocks.name(0, blocks.scheme.query)].shape[0] // heads
        return {**config, "hidden_size": len(kept), "head_dim": size}, {**tensors, **narrowed}


METHOD = KeepHidden
