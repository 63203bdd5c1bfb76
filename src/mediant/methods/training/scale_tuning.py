"""Tuning of continuous parameters by KL to the original, integers frozen.

Learned are a gain for every row of every quantized matrix, which its scales then take up, and norms and biases. A gain
of a row multiplies an output, so no gradient of a weight is ever formed: a step costs a forward pass of the original,
and a forward and a backward pass through activations of the compressed network.

Source: the second phase of EfficientQAT (Chen et al. 2024, arXiv 2407.11062, section 3.3) trains step sizes end to end;
the loss is the distillation of Hinton et al. 2015 (arXiv 1503.02531) at temperature 1 without labels. Deviations: one
gain a row, not a step a group; norms and biases too; the text may be the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mediant.methods.training._descent import Course, Descent, State, keep_nothing
from mediant.methods.training.divergence import divergence, loss_in_pieces
from mediant.models.head_in_pieces import pieces_for
from mediant.models.reference import parameters_to_modules
from mediant.progress import SILENT, Progress
from mediant.statistics.sensitivity import reads_rows
from mediant.values import TensorInfo
from mediant.workers import compute_alone, ordered

# Of Adam: relative to the size of each parameter, which is 1 for gains; and the KL from which on it is right. Its steps
# leave noise that costs in proportion to the rate's square, and what can be gained is in proportion to the KL, so below
# that the rate goes with the root of the KL.
RATE, RIGHT_FROM = 3e-3, 0.2


@dataclass(frozen=True)
class Tuned:
    """What was learned: gains [rows] of quantized tensors and new values of others, float32, by the tensor's name."""

    gains: Mapping[str, NDArray[np.float32]]
    values: Mapping[str, NDArray[np.float32]]


class Tuner:
    """A compressed network whose gains, norms and biases are learned from the original.

    Args:
        network: the compressed network; it is changed.
        reference: the original, float32.
        tunable: names of the tensors whose rows take up gains. Stacks of experts are left alone.
        tensors: all of the model's.
    """

    def __init__(self, network: Any, reference: Any, tunable: Container[str], tensors: Sequence[TensorInfo]) -> None:
        self.network, self.reference = network, reference
        network.requires_grad_(False)
        owners = parameters_to_modules(network)
        state = network.state_dict(keep_vars=True)
        self.gains: dict[str, nn.Parameter] = {}
        self.others: dict[str, nn.Parameter] = {}
        for info in tensors:
            if info.name in tunable:
                hooked = [self._hook(owners[name], info) for name in (info.name, *info.aliases) if name in owners]
                if not any(hooked):
                    del self.gains[info.name]
            elif info.role in ("norm", "bias") and float(state[info.name].detach().square().mean()) > 0:
                self.others[info.name] = state[info.name].requires_grad_(True)
        self.descent = Descent(self.gains | self.others, RATE)

    def fit_rate(self, divergence: float) -> None:
        """Slows learning down where there is little to be gained; call once, before `run`."""
        self.descent.slow_down(min(1.0, max(divergence, 0.0) / RIGHT_FROM) ** 0.5)

    def run(
        self,
        windows: torch.Tensor,
        steps: int,
        seed: int,
        progress: Progress = SILENT,
        state: State | None = None,
        keep: Callable[[State], None] = keep_nothing,
    ) -> None:
        """Takes `steps` steps over windows [windows, tokens] in an order drawn from `seed`; else as `Descent.run`."""
        self.descent.run(self._gradient, windows, Course(steps, seed=seed), progress, "Tuning scales", state, keep)

    def divergence(self, windows: torch.Tensor) -> float:
        """Returns the mean KL from the original in nats per token over windows [windows, tokens]."""

        def measured(window: torch.Tensor) -> float:
            with torch.no_grad():
                return float(self._divergence(window))

        return float(np.mean(list(ordered(measured, windows, compute_alone))))

    def tuned(self) -> Tuned:
        """Returns the tuned values so far."""
        gains = {name: gain.detach().numpy() for name, gain in self.gains.items()}
        return Tuned(gains, {name: p.detach().float().numpy() for name, p in self.others.items()})

    def _hook(self, module: nn.Module, info: TensorInfo) -> bool:
        rows = info.matrix_shape[0]
        gain = self.gains.setdefault(info.name, nn.Parameter(torch.ones(rows)))
        if isinstance(module, nn.Embedding):
            if module is self.network.get_input_embeddings() or reads_rows(module):
                module.register_forward_hook(lambda m, inputs, y: y * gain[inputs[0]][..., None])
                return True
        elif getattr(module, "weight", None) is not None and module.weight.ndim == 2:
            bias = getattr(module, "bias", None)
            if bias is None:
                module.register_forward_hook(lambda m, inputs, y: y * gain)
            else:
                module.register_forward_hook(lambda m, inputs, y: (y - bias) * gain + bias)
            return True
        return False

    def _divergence(self, window: torch.Tensor) -> torch.Tensor:
        student, teacher = (pieces_for(n, len(window)) for n in (self.network, self.reference))
        if student is not None and teacher is not None:
            return loss_in_pieces(student, teacher, window)
        with torch.no_grad():
            wanted = self.reference(input_ids=window[None], use_cache=False).logits[0]
        return divergence(self.network(input_ids=window[None], use_cache=False).logits[0], wanted)

    def _gradient(self, window: torch.Tensor) -> tuple[float, Sequence[torch.Tensor]]:
        loss, parameters = self._divergence(window), list(self.descent.parameters.values())
        return float(loss.detach()), torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
