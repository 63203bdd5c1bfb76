"""Low-rank adapters: beside every matrix of a network a thin product learns, and is added to the matrix in the end.

A module y = W x becomes y = W x + B A x with A [rank, columns] and B [rows, rank], of which only A and B learn: less
memory than distilling all weights (two copies less and no gradient of W), and less to overfit with on short texts.
Where there is time to learn all weights, that recovers more. After training W takes up B A, so the network has its own
modules again.

Source: Hu et al. 2021, LoRA (arXiv 2106.09685), by the package peft, which is imported only here. Deviation: alpha is
the rank, so that the product counts as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mediant.errors import PlanError, UsageError

REFERENCES = ("Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685",)
NEEDS: tuple[str, ...] = ()

ADAPTER = "default"


class Adapters:
    """Adapters in a network until `fold` is called.

    Args:
        network: of which all linear modules but the output's get one; it is changed.
        rank: of the products.
        seed: of A; B is 0 at first.

    Raises:
        UsageError: the package peft is not installed.
        PlanError: the network has no linear modules.
    """

    def __init__(self, network: Any, rank: int, seed: int) -> None:
        config, inject = _peft()
        head = network.get_output_embeddings()
        names = [name for name, m in network.named_modules() if _linear(m) and m is not head]
        if not names:
            raise PlanError("The network has no linear modules that adapters could stand beside.")
        transposed = any(_transposed(network.get_submodule(name)) for name in names)
        settings = config(r=rank, fan_in_fan_out=transposed, lora_alpha=rank, lora_dropout=0.0, target_modules=names)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject(settings, network, adapter_name=ADAPTER)
        self.network = network
        self.modules: dict[str, Any] = {name: network.get_submodule(name) for name in names}
        self.parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}

    def fold(self) -> None:
        """Adds the products to the matrices and removes the adapters."""
        for name, module in self.modules.items():
            inner = module.get_base_layer()
            with torch.no_grad():
                inner.weight += module.get_delta_weight(ADAPTER)
            parent, _, leaf = name.rpartition(".")
            setattr(self.network.get_submodule(parent), leaf, inner)


def _linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or _transposed(module)


def _transposed(module: nn.Module) -> bool:
    """Returns True for GPT-2's linear module, which stores its matrix [in, out]."""
    return type(module).__name__ == "Conv1D"


def _peft() -> tuple[Any, Any]:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UsageError("Adapters need the package peft; pip install 'mediant[lora]' installs it.") from None
    return LoraConfig, inject_adapter_in_model
