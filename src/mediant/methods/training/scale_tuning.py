"""Tuning of continuous parameters by KL to the original, integers frozen.

Learned are a gain for every row of every quantized matrix, which its scales then take up, and norms and biases. A gain
of a row multiplies an output, so no gradient of a weight is ever formed: a step costs a forward pass of the original,
and a forward and a backward pass through activations of the compressed network.

Source: the second phase of EfficientQAT (Chen et al. 2024, arXiv 2407.11062, section 3.3) trains step sizes end to end;
the loss is the distillation of Hinton et al. 2015 (arXiv 1503.02531) at temperature 1 without labels. Deviations: one
gain a row, not a step a group; norms and biases too; the text may be the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mediant.methods.training.divergence import divergence
from mediant.models.reference import parameters_to_modules
from mediant.plans import Plan
from mediant.progress import SILENT, Progress
from mediant.statistics.calibration import compute_alone
from mediant.statistics.sensitivity import reads_rows
from mediant.values import TensorInfo
from mediant.workers import ordered

# Windows a step; their gradients are added in order, so the result does not depend on the number of threads.
BATCH = 2
# Of Adam: relative to 1 for gains, to its own size for any other parameter.
RATE, BETAS = 3e-3, (0.9, 0.99)
WARM_UP, LAST_SHARE = 10, 0.05
# Tensors without scales of their rows.
UNGAINED = ("cast", "compand")
# Steps between two states that are kept.
KEEP_EVERY = 10

State = dict[str, torch.Tensor]


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
        plan: which tensors are quantized. Stacks of experts are left alone.
        tensors: all of the model's.
    """

    def __init__(self, network: Any, reference: Any, plan: Plan, tensors: Sequence[TensorInfo]) -> None:
        self.network, self.reference = network, reference
        network.requires_grad_(False)
        owners = parameters_to_modules(network)
        state = network.state_dict(keep_vars=True)
        self.gains: dict[str, nn.Parameter] = {}
        self.others: dict[str, nn.Parameter] = {}
        for info in tensors:
            if plan.tensors[info.name].method not in UNGAINED:
                hooked = [self._hook(owners[name], info) for name in (info.name, *info.aliases) if name in owners]
                if not any(hooked):
                    del self.gains[info.name]
            elif info.role in ("norm", "bias") and float(state[info.name].detach().square().mean()) > 0:
                self.others[info.name] = state[info.name].requires_grad_(True)
        gains = {"params": list(self.gains.values()), "rate": RATE}
        sizes = [{"params": [p], "rate": RATE * float(p.detach().square().mean().sqrt())} for p in self.others.values()]
        self.optimizer = torch.optim.Adam([gains, *sizes], lr=RATE, betas=BETAS)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All that is learned, by the tensor's name."""
        return self.gains | self.others

    def run(
        self,
        windows: torch.Tensor,
        steps: int,
        seed: int,
        progress: Progress = SILENT,
        state: State | None = None,
        keep: Callable[[State], None] = lambda state: None,
    ) -> None:
        """Takes `steps` steps over windows [windows, tokens] in an order drawn from `seed`.

        With `state`, as `keep` was once given it, the run goes on from there and ends with the same bits.
        """
        done = 0 if state is None else self._restore(state)
        batches = _batches(len(windows), steps, seed)
        for step in progress.track(range(done, steps), "Tuning scales", steps - done):
            for group in self.optimizer.param_groups:
                group["lr"] = group["rate"] * _rate(step, steps)
            chosen = [windows[i] for i in batches[step]]
            gradients = list(ordered(self._gradient, chosen, compute_alone))
            for parameter, *parts in zip(self.parameters.values(), *gradients, strict=True):
                parameter.grad = torch.stack(parts).mean(0)
            self.optimizer.step()
            if (step + 1) % KEEP_EVERY == 0:
                keep(self._state(step + 1))

    def divergence(self, windows: torch.Tensor) -> float:
        """Mean KL from the original in nats per token over windows [windows, tokens]."""

        def measured(window: torch.Tensor) -> float:
            with torch.no_grad():
                return float(self._divergence(window))

        return float(np.mean(list(ordered(measured, windows, compute_alone))))

    def tuned(self) -> Tuned:
        """What was learned so far."""
        gains = {name: (1 + gain.detach()).numpy() for name, gain in self.gains.items()}
        return Tuned(gains, {name: p.detach().float().numpy() for name, p in self.others.items()})

    def _hook(self, module: nn.Module, info: TensorInfo) -> bool:
        rows = info.matrix_shape[0]
        gain = self.gains.setdefault(info.name, nn.Parameter(torch.zeros(rows)))
        if isinstance(module, nn.Embedding):
            if module is self.network.get_input_embeddings() or reads_rows(module):
                module.register_forward_hook(lambda m, inputs, y: y * (1 + gain[inputs[0]])[..., None])
                return True
        elif getattr(module, "weight", None) is not None and module.weight.ndim == 2:
            bias = getattr(module, "bias", None)
            if bias is None:
                module.register_forward_hook(lambda m, inputs, y: y * (1 + gain))
            else:
                module.register_forward_hook(lambda m, inputs, y: y + (y - bias) * gain)
            return True
        return False

    def _divergence(self, window: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = self.reference(input_ids=window[None], use_cache=False).logits[0]
        return divergence(self.network(input_ids=window[None], use_cache=False).logits[0], wanted)

    def _gradient(self, window: torch.Tensor) -> Sequence[torch.Tensor]:
        parameters = list(self.parameters.values())
        return torch.autograd.grad(self._divergence(window), parameters, allow_unused=True, materialize_grads=True)

    def _state(self, done: int) -> State:
        state = {f"value.{name}": p.detach().clone() for name, p in self.parameters.items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"adam.{i}.{key}": value.clone() for key, value in moments.items()}
        return state | {"done": torch.tensor(done)}

    def _restore(self, state: State) -> int:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state[f"value.{name}"])
        adam = self.optimizer.state_dict()
        for key, value in state.items():
            if key.startswith("adam."):
                _, i, moment = key.split(".")
                adam["state"].setdefault(int(i), {})[moment] = value
        self.optimizer.load_state_dict(adam)
        return int(state["done"])


def _rate(step: int, steps: int) -> float:
    """A short rise, then a straight fall."""
    return min(1.0, (step + 1) / WARM_UP) * (1 - (1 - LAST_SHARE) * step / steps)


def _batches(windows: int, steps: int, seed: int) -> list[list[int]]:
    """Windows of each step: every window once before any comes again."""

    def shuffled() -> Iterator[int]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield from torch.randperm(windows, generator=generator).tolist()

    order = shuffled()
    return [[next(order) for _ in range(BATCH)] for _ in range(steps)]
