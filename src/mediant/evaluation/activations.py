"""Rounds the inputs of linear layers while a network runs, to judge what integer arithmetic would cost.

Every input x of a layer is replaced by s round(x / s), with s = max|x_j| / (2^(b-1) - 1) for each token: symmetric,
dynamic, per token (Xiao et al. 2022, arXiv 2211.10438, section 2). Where the stored weights are balanced, the rounding
is of the balanced inputs: x_j times the column's factor before, and divided by it after. It is a simulation in float32:
it says what such arithmetic loses, not how fast it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

LEAST_BITS, MOST_BITS = 2, 16


def round_inputs(network: Any, bits: int, factors: Mapping[str, torch.Tensor]) -> None:
    """Makes every linear layer but the head round its inputs.

    Args:
        network: of transformers; changed.
        bits: of an input.
        factors: what the columns of stored weights are multiplied by [columns], by the name of the weight.
    """
    head = network.get_output_embeddings()
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head:
            module.register_forward_pre_hook(_hook(bits, factors.get(f"{name}.weight")))


def rounded(x: torch.Tensor, bits: int, factor: torch.Tensor | None = None) -> torch.Tensor:
    """Inputs [..., columns] as `bits` hold them.

    >>> rounded(torch.tensor([[127.0, 1.4, -3.6]]), 8).tolist()
    [[127.0, 1.0, -4.0]]
    """
    balanced = x if factor is None else x * factor
    step = balanced.abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)
    found = torch.where(step > 0, (balanced / step).round() * step, balanced)
    return found if factor is None else found / factor


def _hook(bits: int, factor: torch.Tensor | None) -> Any:
    def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return rounded(inputs[0], bits, factor), *inputs[1:]

    return hook
