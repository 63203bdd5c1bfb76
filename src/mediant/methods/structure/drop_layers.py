"""Drops whole transformer blocks; those that stay keep their order and are numbered anew.

The residual stream goes on as if a dropped block had added nothing. Which blocks add least is for `block_influence`
to say (methods/pruning/layers.py); this edit only takes them out. A sister of `keep_neurons`, which thins every block
instead; dropping saves time in the attention and the cache too.

Configuration: `num_hidden_layers` (or the model's own name for it), every list with one entry for each layer, such as
`layer_types`, and every list of layers follow. Cost: none beside copying the other tensors.

>>> from mediant.models.lazy import LazyTensor
>>> weights = {f"layers.{i}.w": LazyTensor.of(torch.full((1,), i)) for i in range(3)}
>>> config, left = DropLayers(layers=(1,)).edited({"num_hidden_layers": 3, "layer_types": ["a", "b", "c"]}, weights)
>>> config, {name: int(w.read()) for name, w in left.items()}
({'num_hidden_layers': 2, 'layer_types': ['a', 'c']}, {'layers.0.w': 0, 'layers.1.w': 2})
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch  # noqa: F401 (for the doctest)

from mediant.errors import PlanError
from mediant.methods.structure import Config, Tensors

REFERENCES = (
    "Men et al. 2024, ShortGPT: Layers in Large Language Models are More Redundant Than You Expect, 2403.03853",
)
NEEDS: tuple[str, ...] = ()

# Lists in the configuration that name layers; others with "layer" in their name have an entry for each layer.
INDEX_LISTS = ("mlp_only_layers",)
COUNTS = ("num_hidden_layers", "n_layer", "num_layers")
_IN_LAYER = re.compile(r"(?:^|(?<=\.))(layers|h|blocks|layer)\.(\d+)\.")


@dataclass(frozen=True)
class DropLayers:
    """`layers` are the indices of the blocks to drop, counted from 0 in the model as it is before this edit."""

    layers: Sequence[int] = ()

    def edited(self, config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
        """Returns the model without these blocks."""
        count = layer_count(config)
        dropped = set(self.layers)
        if not dropped or not all(type(n) is int and 0 <= n < count for n in dropped) or len(dropped) == count:
            raise PlanError(f"The layers to drop are {sorted(dropped)}; some, but not all, of 0 to {count - 1} go.")
        kept = [n for n in range(count) if n not in dropped]
        places = {old: new for new, old in enumerate(kept)}
        renamed = {}
        for name, tensor in tensors.items():
            match = _IN_LAYER.search(name)
            if match is None:
                renamed[name] = tensor
            elif int(match[2]) in places:
                renamed[f"{name[: match.start(2)]}{places[int(match[2])]}{name[match.end(2) :]}"] = tensor
        return _config(config, kept, count), renamed


METHOD = DropLayers


def layer_count(config: Config) -> int:
    """Returns the number of transformer blocks.

    Raises:
        PlanError: the configuration does not say.
    """
    name = next((name for name in COUNTS if name in config), None)
    if name is None:
        raise PlanError("The model's configuration does not say how many layers it has, so none can be dropped.")
    return int(config[name])


def _config(config: Config, kept: Sequence[int], count: int) -> Config:
    def follows(name: str, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        if name in INDEX_LISTS:
            return [kept.index(n) for n in value if n in kept]
        return [value[n] for n in kept] if "layer" in name and len(value) == count else value

    counts = {name: len(kept) for name in COUNTS if name in config}
    return {name: follows(name, value) for name, value in config.items()} | counts
