"""Linear layers of a loaded network whose matrices were pruned in whole blocks: inference leaves the zero blocks out.

The module stays an ordinary one with all of its weights, so that saving and training work as ever; only its `forward`
is another, which looks whether the weights are still those that were loaded, and whether anything asks for a gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mediant.checkpoint.reader import Checkpoint
from mediant.kernels.block_sparse_matrix import BlockSparse


def skip_zero_blocks(network: Any, checkpoint: Checkpoint) -> None:
    """Lets the linear layers of a network, just loaded from the checkpoint, compute with the blocks that are kept."""
    modules = dict(network.named_modules())
    for name, entry in checkpoint.tensors.items():
        path, _, leaf = name.rpartition(".")
        module = modules.get(path)
        if leaf == "weight" and type(module) is nn.Linear and entry.plan.in_blocks(entry.info, entry.side):
            parts = checkpoint.encoding(name).parts
            _Skipping(module, entry.plan.blocks(entry.info, parts, entry.side))


class _Skipping:
    """Stands for the `forward` of a linear module."""

    def __init__(self, module: nn.Linear, blocks: BlockSparse) -> None:
        self.module, self.blocks = module, blocks
        self.loaded = (module.weight, module.weight._version)
        module.forward = self.forward  # type: ignore[method-assign,assignment]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the module's output; skips its zero blocks where weights are fixed float32 on the CPU."""
        weight, bias = self.module.weight, self.module.bias
        learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
        changed = self.loaded[0] is not weight or self.loaded[1] != weight._version
        if learns or changed or x.dtype != torch.float32 or x.device.type != "cpu":
            return nn.functional.linear(x, weight, bias)
        y = torch.from_numpy(self.blocks.multiply(x.detach().reshape(-1, x.shape[-1]).numpy()))
        y = y.reshape(*x.shape[:-1], len(weight))
        return y if bias is None else y + bias
