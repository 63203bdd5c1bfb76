"""Gradients of a network's output by its weights, as CVXQ measures sensitivities.

G_ij² = mean over sequences of (d(u · z) / dw_ij)², where z is the last hidden state summed over every `STRIDE`-th token
of a sequence, and u one of its principal components, the next one for each sequence: a sample of the rows of
E||f(X; W^) - f(X; W)||² in second order. The gradients are those of the network as it is: quantize its weights, and
they are those at the quantized weights.

Source: Young 2024 (arXiv 2409.02026), section 3.1 and algorithm 1. Deviations: (1) components are taken in the order of
their variance, as many as there are sequences, where the source cycles through 1024; (2) sequences are cut to `LENGTH`
tokens, and the stride is shortened with them, so that as many tokens of a sequence count.

Cost: one forward and one backward pass a sequence, with the gradients of all weights in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

REFERENCES = (
    "Young 2024, Foundations of Large Language Model Compression -- Part 1: Weight Quantization, arXiv:2409.02026",
)

LENGTH, STRIDE = 256, 64


@torch.no_grad()
def components(network: Any, windows: torch.Tensor) -> torch.Tensor:
    """Principal components of the last hidden states at the strided tokens of windows [windows, length]: [k, width]."""
    states = torch.cat([_states(network, window) for window in windows]).double()
    centred = states - states.mean(dim=0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    found: torch.Tensor = vectors.flip(1).T.float()
    return found


def squares(
    network: Any, parameters: Mapping[str, torch.nn.Parameter], window: torch.Tensor, component: torch.Tensor
) -> dict[str, torch.Tensor]:
    """(d(u · z) / dw)² of every parameter for one sequence, in the parameter's shape; 0 where nothing depends on it."""
    output = (_states(network, window) @ component).sum()
    gradients = torch.autograd.grad(output, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient.square()
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }


def _states(network: Any, window: torch.Tensor) -> torch.Tensor:
    """Returns the last hidden states at the last token of every stride, [tokens, width]."""
    encoder = network.get_encoder() if network.config.is_encoder_decoder else network.base_model
    ids = window[:LENGTH]
    states: torch.Tensor = encoder(input_ids=ids[None]).last_hidden_state[0]
    return states[min(STRIDE, len(ids)) - 1 :: STRIDE]
