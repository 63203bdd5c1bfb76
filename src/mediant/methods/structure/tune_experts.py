"""Fits the routers of a model's mixtures to its experts, then learns by KL to the original.

Routers come from a regression (`mediant.methods.experts.router`); then `steps` steps of Adam lower KL(original ||
mixture) over the text, in the manner of `mediant.methods.training.scale_tuning`: routers, shared experts' gates and
norms, and, with `learn` "all", the experts' matrices too. One window in eight is held out, and what was learned is only
kept if it is better on those. For models that `split_ffn` has made; with 0 steps it only fits.

Source: Pei et al. 2025, CMoE (arXiv 2502.04416), section 3.5, fine-tunes by LoRA on labels; here the original
teaches (Hinton et al. 2015, arXiv 1503.02531), and matrices are learned whole. Cost: a step is a forward pass of the
original and a forward and backward pass of the mixture over two windows; Adam's memory is twice what is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mediant.errors import PlanError
from mediant.methods.experts.router import energies, fitted
from mediant.methods.structure import State
from mediant.methods.training._descent import Descent, size_of
from mediant.methods.training.scale_tuning import RATE, Tuner
from mediant.progress import Progress
from mediant.values import MOST_STEPS

REFERENCES = (
    "Pei et al. 2025, CMoE: Converting Mixture-of-Experts from Dense to Accelerate LLM Inference, arXiv:2502.04416",
    "Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531",
)
NEEDS: tuple[str, ...] = ()

# Windows that routers are fitted to, and of how many windows one is held out.
FITTED, HELD_OUT = 16, 8
# Of Adam for a matrix, relative to its own size; gains and norms take `RATE`.
MATRIX_RATE = 2e-3
LEARNED = ("routers", "all")


@dataclass(frozen=True)
class TuneExperts:
    """`steps` of learning after the fit; `learn` is "routers" or "all"; `seed` orders the text."""

    steps: int = 0
    learn: str = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.learn not in LEARNED or not 0 <= self.steps <= MOST_STEPS:
            raise ValueError(f"learn is one of {', '.join(LEARNED)}, and steps go from 0 to {MOST_STEPS}")

    def train(
        self,
        student: nn.Module,
        teacher: nn.Module,
        windows: torch.Tensor,
        progress: Progress,
        state: State | None,
        keep: Callable[[State], None],
    ) -> State:
        """New routers, and whatever else was learned."""
        found = fit_routers(student, windows[:FITTED], progress)
        held = torch.arange(len(windows)) % max(2, HELD_OUT) == 0
        if not self.steps or len(windows) < 2:
            return found
        tuner = MixtureTuner(student, teacher, self.learn)
        before = tuner.divergence(windows[held])
        tuner.run(windows[~held], self.steps, self.seed, progress, None if state is None else dict(state), keep)
        after = tuner.divergence(windows[held])
        progress.say(f"Tuned in {self.steps} steps: KL {before:.4f} -> {after:.4f} on text not learned from.")
        return tuner.values() if after < before else found


METHOD = TuneExperts


class MixtureTuner(Tuner):
    """A network with mixtures whose routers, norms and, if wanted, experts are learned from the original."""

    def __init__(self, network: Any, reference: Any, learn: str) -> None:
        self.network, self.reference = network, reference
        network.requires_grad_(False)
        self.gains = {}
        self.others = dict(_learnable(network, learn))
        sizes = {}
        for name, parameter in self.others.items():
            parameter.requires_grad_(True)
            size = size_of(parameter) or 1 / parameter.shape[-1] ** 0.5
            matrix = ".experts." in name or "shared_expert." in name
            sizes[name] = size * (MATRIX_RATE / RATE if matrix else 1.0)
        self.descent = Descent(self.others, RATE, sizes=sizes)

    def values(self) -> dict[str, torch.Tensor]:
        """Copies of the tuned parameters, by tensor name."""
        return {name: parameter.detach().clone() for name, parameter in self.others.items()}


def mixtures(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yields every mixture with fused experts and a linear router, by the path of its module."""
    for path, module in network.named_modules():
        if hasattr(module, "experts") and hasattr(module, "gate") and hasattr(module.experts, "down_proj"):
            yield path, module


@torch.no_grad()
def fit_routers(network: Any, windows: torch.Tensor, progress: Progress) -> dict[str, torch.Tensor]:
    """Routers fitted one layer after another, each to what the mixtures before it give; set, and by tensor name.

    Raises:
        PlanError: the network has no mixture.
    """
    found = dict(mixtures(network))
    if not found:
        raise PlanError("tune_experts needs a model with experts; put split_ffn before it.")
    routers = {}

    def hook(path: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def fit(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            router = fitted(x, energies(module.experts, x))
            module.gate.weight.copy_(router)
            routers[f"{path}.gate.weight"] = router

        return fit

    # Before a mixture runs its router is set, so the layers after it see what it will really do.
    hooks = [module.register_forward_pre_hook(hook(path)) for path, module in found.items()]
    for _ in progress.track(range(1), "Fitting routers"):
        network.base_model(input_ids=windows, use_cache=False)
    for handle in hooks:
        handle.remove()
    return routers


def _learnable(network: nn.Module, learn: str) -> Iterator[tuple[str, nn.Parameter]]:
    paths = tuple(path for path, _ in mixtures(network))
    for name, parameter in network.named_parameters():
        inside = name.startswith(tuple(f"{path}." for path in paths))
        small = parameter.ndim == 1 or name.endswith((".gate.weight", "shared_expert_gate.weight"))
        if small or (inside and learn == "all"):
            yield name, parameter
