"""Which parts of a model to prune: structural edits from what calibration learned of the model as it was given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mediant.errors import PlanError, UsageError
from mediant.methods.pruning.prunable_units import best, column_losses
from mediant.methods.structure._index_sets import to_text
from mediant.methods.structure.drop_layers import layer_count
from mediant.methods.structure.refit import outlet
from mediant.models.blocks import Blocks, neuron_count
from mediant.models.matrix_form import to_matrix
from mediant.models.reference import load_reference
from mediant.models.weights import WeightReader
from mediant.progress import SILENT, Progress
from mediant.statistics.block_influence import block_influence
from mediant.values import Array, LayerStatistics, Model, Statistics

Edit = dict[str, Any]
# Wide parts stay multiples of this many, which kernels and file formats want.
MULTIPLE, WIDE = 32, 512
# Scores that go without text.
BLIND = ("magnitude", "random")


@dataclass(frozen=True)
class Pruner:
    """Chooses edits of a model; `windows` and `statistics` are computed when they are first needed.

    With `refit`, what leads out of thinned parts is refitted to make up for them (methods/structure/refit.py), where
    that can be done; None means with scores that look at text too.
    """

    model: Model
    statistics: Callable[[], Statistics]
    windows: Callable[[], torch.Tensor]
    score: str = "influence"
    seed: int = 0
    refit: bool | None = None
    progress: Progress = SILENT

    def edits(self, wanted: Mapping[str, Any]) -> list[Edit]:
        """Returns the edits that take away `layers` (a number), and shares or numbers of `neurons`, `heads`, `hidden`.

        Raises:
            UsageError: one of them is no number or share, or leaves nothing.
            PlanError: the model has no such parts.
        """
        count = layer_count(dict(self.model.config))
        layers = removed(wanted.get("layers", 0), count, "layers", 1)
        dropped = self._dropped(layers) if layers else []
        kept = [n for n in range(count) if n not in dropped]
        found: list[Edit] = [{"edit": "drop_layers", "layers": dropped}] if dropped else []
        thinned = {"neurons": self._neurons, "heads": self._heads}
        with WeightReader(self.model) as weights:
            for name, choose in thinned.items():
                if wanted.get(name):
                    found += choose(wanted[name], kept, weights)
            if self.score not in BLIND if self.refit is None else self.refit:
                found += self._refits([name for name in thinned if wanted.get(name)], kept)
            if wanted.get("hidden"):
                found += self._hidden(wanted["hidden"], kept, weights)
        return found

    def _refits(self, thinned: list[str], kept: list[int]) -> Iterator[Edit]:
        blocks = Blocks.of(t.name for t in self.model.tensors) if thinned else None
        parts = [name for name in thinned if blocks and outlet(blocks, name)]
        if parts and self.model.causal:
            yield {"edit": "refit", "parts": parts, "layers": kept}

    def _dropped(self, count: int) -> list[int]:
        """Returns the blocks that change the stream least."""
        if self.score == "random":
            layers = layer_count(dict(self.model.config))
            return sorted(int(n) for n in np.random.default_rng(self.seed).permutation(layers)[:count])
        influence = block_influence(load_reference(self.model), self.windows(), self.progress)
        return best(-influence, count)

    def _neurons(self, wanted: Any, kept: list[int], weights: WeightReader) -> Iterator[Edit]:
        blocks = Blocks.of(t.name for t in self.model.tensors)
        count = _columns(self.model, blocks.name(0, blocks.scheme.out_of))
        left = count - removed(wanted, count, "neurons", MULTIPLE if count >= WIDE else 1)
        neuron_count(self.model.config)
        chosen = []
        for layer in kept:
            losses = self._losses(blocks.name(layer, blocks.scheme.out_of), weights, layer)
            chosen.append(to_text(best(losses, left), count))
        yield {"edit": "keep_neurons", "neurons": chosen}

    def _heads(self, wanted: Any, kept: list[int], weights: WeightReader) -> Iterator[Edit]:
        blocks = Blocks.of(t.name for t in self.model.tensors)
        if not blocks.scheme.free_heads:
            raise PlanError(
                "In this model the size of a head follows from the hidden width, so heads cannot be pruned."
            )
        heads = int(self.model.config["num_attention_heads"])
        groups = int(self.model.config.get("num_key_value_heads") or heads)
        left = groups - removed(wanted, groups, "heads", 1)
        chosen = []
        for layer in kept:
            losses = self._losses(blocks.name(layer, blocks.scheme.output), weights, layer)
            chosen.append(to_text(best(losses.reshape(groups, -1).sum(axis=1), left), groups))
        yield {"edit": "keep_heads", "groups": chosen}

    def _hidden(self, wanted: Any, kept: list[int], weights: WeightReader) -> Iterator[Edit]:
        blocks = Blocks.of(t.name for t in self.model.tensors)
        width = int(self.model.config["hidden_size"])
        left = width - removed(wanted, width, "hidden components", MULTIPLE if width >= WIDE else 1)
        readers = [m for m in (*blocks.scheme.into, blocks.scheme.query, blocks.scheme.key, blocks.scheme.value) if m]
        total = np.zeros(width)
        for layer in kept:
            total += sum(self._losses(blocks.name(layer, module), weights, layer) for module in readers)
        hidden = best(total, left)
        yield {
            "edit": "keep_hidden",
            "hidden": to_text(hidden, width),
            "gains": self._gains(blocks, kept, hidden, weights),
        }

    def _gains(self, blocks: Blocks, kept: list[int], hidden: list[int], weights: WeightReader) -> dict[str, float]:
        """Returns factors for norms over fewer components: the kept components' root mean square over that of all.

        The input of a matrix behind a norm is x_j / rms(x) · g_j, so the mean of its square over g_j² says it.
        """
        places = {old: new for new, old in enumerate(kept)}
        behind = {"input_layernorm": blocks.scheme.query, "post_attention_layernorm": blocks.scheme.into[0]}
        gains = {}
        for layer in kept:
            for norm, module in behind.items():
                seen = self._of(blocks.name(layer, module))
                name = blocks.name(layer, norm)
                gain = weights.read(name).astype(np.float64)
                squares = np.divide(seen.input_square, gain**2, out=np.ones_like(gain), where=gain != 0)
                gains[name.replace(f".{layer}.", f".{places[layer]}.", 1)] = float(np.sqrt(squares[hidden].mean()))
        return gains

    def _losses(self, name: str, weights: WeightReader, layer: int) -> Array:
        matrix = to_matrix(weights.read(name), self.model.tensor(name))
        known = None if self.score in BLIND else self._of(name)
        return column_losses(self.score, matrix, known, self.seed + layer)

    def _of(self, name: str) -> LayerStatistics:
        found = self.statistics().layers.get(name)
        if found is None:
            raise PlanError(f"Calibration did not see the tensor {name!r}, so parts of it cannot be compared.")
        return found


def removed(wanted: Any, count: int, what: str, multiple: int) -> int:
    """Counts the parts to remove: `wanted` itself, or a share such as `25%` that leaves a multiple of `multiple`.

    Raises:
        UsageError: it is neither, or nothing would be left.

    >>> removed("25%", 1536, "neurons", 32), removed(3, 30, "layers", 1), removed("10%", 576, "components", 32)
    (384, 3, 64)
    """
    text = str(wanted).strip()
    try:
        if text.endswith("%"):
            left = count * (1 - float(text[:-1]) / 100)
            gone = count - max(1, round(left / multiple)) * multiple
        else:
            gone = int(text)
    except ValueError:
        gone = -1
    if not 0 <= gone < count:
        raise UsageError(f"Of {count} {what}, {text!r} cannot go; it takes a number below {count}, or a share as 25%.")
    return gone


def _columns(model: Model, name: str) -> int:
    return model.tensor(name).matrix_shape[1]
