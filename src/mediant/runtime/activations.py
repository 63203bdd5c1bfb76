"""A network that computes with rounded activations, for evaluation: floats that lie on the levels of whole numbers.

Forward hooks round the inputs of linear layers; a cache rounds keys and values. What is measured is what integer
kernels would lose; nothing is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.cache_utils import DynamicCache

from mediant import discovery
from mediant.methods.activations import dynamic_step, largest_level, rounded

# Tokens of a window that are kept as a sample of inputs, evenly spread, the first among them.
SAMPLED_TOKENS = 16


@dataclass(frozen=True)
class Inputs:
    """Inputs of one module over a text: the largest magnitude of each [columns], and some tokens [tokens, columns]."""

    maxima: torch.Tensor
    sample: torch.Tensor


@dataclass(frozen=True)
class Activations:
    """How inputs are rounded: `steps` [columns] or one number by the path of each module; none is dynamic, by token.

    `cache_bits` also rounds keys and values, each token and head with a step of its own; 0 leaves them alone.
    """

    bits: int = 8
    steps: Mapping[str, torch.Tensor] | None = None
    cache_bits: int = 0


@dataclass
class Recorder:
    """Hooks that record the inputs of all linear layers but the head's while a network runs."""

    network: Any
    found: dict[str, list[Inputs]] = field(default_factory=dict)

    def record(self, windows: torch.Tensor) -> dict[str, Inputs]:
        """Inputs over windows [windows, tokens], by the path of the module."""
        handles = [
            module.register_forward_pre_hook(self._hook(path)) for path, module in linear_layers(self.network).items()
        ]
        with torch.inference_mode():
            for window in windows:
                self.network(input_ids=window[None], use_cache=False)
        for handle in handles:
            handle.remove()
        return {path: _joined(parts) for path, parts in self.found.items()}

    def _hook(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            some = torch.linspace(0, len(x) - 1, min(len(x), SAMPLED_TOKENS)).round().long()
            self.found.setdefault(path, []).append(Inputs(x.abs().amax(0), x[some].clone()))

        return hook


def linear_layers(network: Any) -> dict[str, nn.Module]:
    """Linear layers but the head, by their paths."""
    head = network.get_output_embeddings()
    return {path: m for path, m in network.named_modules() if isinstance(m, nn.Linear) and m is not head}


def static_steps(
    inputs: Mapping[str, Inputs], range_spec: Mapping[str, Any], bits: int = 8, per_channel: bool = False
) -> dict[str, torch.Tensor]:
    """Steps from recorded inputs by a method of `methods/activations`: one a module, or one for every column.

    With `per_channel`, columns are first divided by their largest magnitudes, as equalizing does, so all share a range.
    """
    method = discovery.make("activations", range_spec)
    steps = {}
    for path, found in inputs.items():
        scale = found.maxima if per_channel else torch.ones(())
        even = torch.cat([found.sample, found.maxima[None]]).abs() / torch.where(scale > 0, scale, 1)
        threshold = float(method.thresholds(even.numpy().astype(np.float32).reshape(1, -1), bits)[0])
        steps[path] = scale * (threshold / largest_level(bits))
    return steps


def round_inputs(network: Any, activations: Activations) -> Callable[[], None]:
    """Makes a network round its inputs; what is returned undoes it.

    Raises:
        KeyError: a module has no step.
    """
    handles = []
    for path, module in linear_layers(network).items():
        step = None if activations.steps is None else activations.steps[path]
        handles.append(module.register_forward_pre_hook(_rounding(step, activations.bits)))

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo


def _rounding(step: torch.Tensor | None, bits: int) -> Callable[..., tuple[torch.Tensor, ...]]:
    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x = inputs[0]
        return (rounded(x, dynamic_step(x, bits) if step is None else step, bits), *inputs[1:])

    return hook


class RoundedCache(DynamicCache):  # type: ignore[misc]
    """A cache whose keys and values are rounded as they come in, every token and head with a step of its own."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *arguments: Any, **settings: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rounds the newest and returns all, [batch, heads, tokens, head size]."""
        keys, values = (rounded(x, dynamic_step(x, self.bits), self.bits) for x in (key_states, value_states))
        found: tuple[torch.Tensor, torch.Tensor] = super().update(keys, values, *arguments, **settings)
        return found


def logits(network: Any, activations: Activations) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns the function from token ids to logits that `evaluation.divergence.compare` takes."""

    def forward(ids: torch.Tensor) -> torch.Tensor:
        if activations.cache_bits:
            cache = RoundedCache(activations.cache_bits)
            out: torch.Tensor = network(input_ids=ids, use_cache=True, past_key_values=cache).logits
        else:
            out = network(input_ids=ids, use_cache=False).logits
        return out

    return forward


def _joined(parts: list[Inputs]) -> Inputs:
    return Inputs(torch.stack([p.maxima for p in parts]).amax(0), torch.cat([p.sample for p in parts]))
