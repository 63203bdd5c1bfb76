"""How far back each layer looks: which layers could attend locally without anyone noticing.

Over calibration text, for the queries in the last quarter of each window, a layer's attention is split into what goes
to the first tokens (the sinks, which a trained network looks at when it has nothing to look for: Xiao et al. 2023,
arXiv 2309.17453, section 3.1), what goes to the last `window` tokens, and what goes beyond both. If little goes beyond,
a sliding window with sinks changes little. It is a hint, not a bound: what is looked up rarely may matter most.

Cost: one forward pass with dense attention; the attention of one layer at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mediant.errors import ModelError
from mediant.models.reference import load_reference
from mediant.progress import SILENT, Progress
from mediant.values import Model

# Share of attention beyond window and sinks up to which a layer is called local.
LOCAL_SHARE = 0.01


@dataclass(frozen=True)
class Reach:
    """Where a layer's attention goes, means over heads and queries.

    `distance` is in tokens, of what does not go to the sinks; `sinks`, `near` and `beyond` are shares that add up to 1.
    """

    layer: int
    distance: float
    sinks: float
    near: float
    beyond: float

    @property
    def local(self) -> bool:
        """True if a sliding window is likely to change little."""
        return self.beyond <= LOCAL_SHARE


def attention_reach(
    model: Model, windows: Tensor, window: int, sinks: int = 4, progress: Progress = SILENT
) -> tuple[Reach, ...]:
    """Returns the reach of every layer, in order.

    Args:
        model: one that predicts tokens.
        windows: text [windows, tokens], int64; the longer the windows, the more there is beyond.
        window: tokens that count as near, the query itself among them.
        sinks: first tokens that count apart.
        progress: is told of every window.

    Raises:
        ModelError: the model does not show its attention, or is no causal one.
    """
    if not model.causal:
        raise ModelError(f"{model.name} looks both ways; only models that predict tokens can attend locally.")
    network: Any = load_reference(model)
    network.set_attn_implementation("eager")
    sums: dict[int, Tensor] = {}
    for module in network.modules():
        if isinstance(getattr(module, "layer_idx", None), int):
            module.register_forward_hook(lambda m, _, out: _add(sums, m, out, window, sinks))
    with torch.inference_mode():
        for text in progress.track(windows, "Measuring attention", len(windows)):
            network.base_model(input_ids=text[None], use_cache=False)
    if not sums:
        raise ModelError(f"{model.name} does not show its attention, so how far it looks cannot be measured.")
    return tuple(_reach(layer, sums[layer] / len(windows)) for layer in sorted(sums))


def local_layers(reaches: Sequence[Reach]) -> list[int]:
    """Layers that could attend locally."""
    return [reach.layer for reach in reaches if reach.local]


def shares(weights: Tensor, window: int, sinks: int) -> Tensor:
    """Sum of distances without sinks, and the shares of sinks, near and beyond, of attention [..., queries, keys].

    Only the last quarter of the queries counts; they are the last of the keys' tokens.

    >>> shares(torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0], [0.2, 0.3, 0.4, 0.1]]), 2, 1)
    tensor([1.0000, 0.2000, 0.5000, 0.3000], dtype=torch.float64)
    """
    queries, keys = weights.shape[-2:]
    mean = weights[..., queries - max(1, queries // 4) :, :].double().reshape(-1, max(1, queries // 4), keys).mean(0)
    j = torch.arange(keys)
    distance = torch.arange(keys - len(mean), keys)[:, None] - j
    # Options may be numbers that no tensor holds.
    sink, near = j < min(sinks, keys), distance < min(window, keys)
    parts = [mean * distance * ~sink, mean * sink, mean * (near & ~sink), mean * ~(near | sink)]
    return torch.stack([part.sum() for part in parts]) / len(mean)


def _add(sums: dict[int, Tensor], module: nn.Module, output: object, window: int, sinks: int) -> None:
    weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
    if isinstance(weights, Tensor) and weights.ndim == 4:
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        sums[layer] = sums.get(layer, torch.zeros(4, dtype=torch.float64)) + shares(weights, window, sinks)


def _reach(layer: int, sums: Tensor) -> Reach:
    distance, sink, near, beyond = sums.tolist()
    return Reach(layer, distance / max(near + beyond, 1e-12), sink, near, beyond)
