"""Refits the matrices that lead out of thinned parts, so that less is lost with what was taken away.

For the matrix W [width, left] behind the neurons of an MLP, or behind the heads of attention, minimises

    E |y - W a|^2 + damping * mean_j(E a_j^2) * |W - W0|^2

over text that goes through the original: y is what the original's matrix gives, a [left] what the thinned part makes of
the very inputs that the original's part has, and W0 the matrix as it is. What is taken away is thus made up for as far
as it can be guessed from what stays. It changes no shape and stands in a plan behind `keep_neurons` and `keep_heads`;
`keep_hidden` goes behind it, as the stream must have the original's width. Eight windows are not learned from and
judge: if the KL on them did not fall, nothing is changed. `distill` can learn on from there.

Source: He, Zhang, Sun 2017, Channel Pruning for Accelerating Very Deep Neural Networks (arXiv 1707.06168), section 3.1,
step (ii). Deviations: inputs are the original's, not those that layers before have spoiled; damped towards W0.

Cost: a forward pass of the original and of the thinned parts over the text, and left^2 multiply-adds a token for every
part; left^2 numbers of memory for each.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mediant.errors import PlanError
from mediant.methods.structure import State
from mediant.methods.structure.distill import held_out
from mediant.methods.training.distillation import Distillation, Distiller
from mediant.models.blocks import Blocks, block_path
from mediant.progress import Progress
from mediant.workers import Turns, compute_alone, ordered

REFERENCES = ("He, Zhang, Sun 2017, Channel Pruning for Accelerating Very Deep Neural Networks, arXiv:1707.06168",)
NEEDS: tuple[str, ...] = ()

PARTS = ("neurons", "heads")
WEIGHT = ".weight"


@dataclass(frozen=True)
class Refit:
    """`parts` are those that were thinned; `layers` says which block of the original each block was, by default itself.

    `windows` of the text are looked at.
    """

    parts: Sequence[str] = ("neurons",)
    layers: Sequence[int] = ()
    windows: int = 128
    damping: float = 0.01

    def __post_init__(self) -> None:
        if not self.parts or not set(self.parts) <= set(PARTS):
            raise ValueError(f"parts are some of {', '.join(PARTS)}")
        if self.windows < 1 or not 0 < self.damping < 1e6:
            raise ValueError("windows are counted from 1, and damping is a positive share")

    def train(
        self,
        student: nn.Module,
        teacher: nn.Module,
        windows: torch.Tensor,
        progress: Progress,
        state: State | None,
        keep: Callable[[State], None],
    ) -> State:
        """Returns the refitted matrices; none where they are no better on windows that were not learned from.

        Raises:
            PlanError: the model has no such parts, the layers do not fit, or there is one window only.
        """
        if len(windows) < 2:
            raise PlanError("Refitting takes at least two windows of text.")
        pairs = list(self._pairs(student, teacher))
        held = held_out(len(windows))
        judge = Distiller(student, teacher, Distillation())
        before = judge.divergence(windows[held])
        learned = windows[~held]
        some = learned[torch.linspace(0, len(learned) - 1, min(self.windows, len(learned))).round().long()]
        found = {pair.outlet: pair.refitted(self.damping) for pair in _gathered(teacher, pairs, some, progress)}
        for name, values in found.items():
            student.get_parameter(name).data.copy_(values)
        after = judge.divergence(windows[held])
        progress.say(f"Refitted {len(found)} matrices: KL {before:.4f} -> {after:.4f} on text not learned from.")
        return found if after < before else {}

    def _pairs(self, student: nn.Module, teacher: nn.Module) -> Iterator[_Pair]:
        ours, theirs = (Blocks.of(name for name, _ in net.named_parameters()) for net in (student, teacher))
        layers = list(self.layers) or list(range(theirs.count))
        if len(layers) != ours.count or not all(0 <= layer < theirs.count for layer in layers):
            raise PlanError(
                f"Refitting {ours.count} blocks, {len(layers)} blocks of an original with {theirs.count} are named."
            )
        for part in self.parts:
            module = outlet(ours, part)
            if not module:
                raise PlanError(f"In this model {part} cannot be refitted, as they are no module of their own.")
            for layer, original in enumerate(layers):
                yield _Pair(student, ours.name(layer, module), teacher, theirs.name(original, module))


METHOD = Refit


def outlet(blocks: Blocks, part: str) -> str:
    """Name of the module after a block's neurons or heads, if these are in a module of their own; else empty.

    >>> outlet(Blocks.of(["h.0.mlp.fc1.weight", "h.0.mlp.fc2.weight"]), "neurons")
    'fc2'
    >>> outlet(Blocks.of(["h.0.fc1.weight", "h.0.fc2.weight"]), "neurons")
    ''
    """
    module = blocks.scheme.out_of if part == "neurons" else blocks.scheme.output
    name = blocks.name(0, module) if module else ""
    return module if block_path(name) != _part(name) else ""


def _part(name: str) -> str:
    """Returns the path of the module around the one that a tensor is in."""
    return name.removesuffix(WEIGHT).rpartition(".")[0]


class _Pair:
    """A thinned part beside the original's, and sums over tokens: a^T a [left, left] and r^T a [width, left].

    r is what the original's matrix gives beyond the matrix that is there.
    """

    def __init__(self, student: nn.Module, outlet: str, teacher: nn.Module, original: str) -> None:
        self.outlet = outlet
        self.part, self.matrix = _modules(student, outlet)
        self.whole, self.original = _modules(teacher, original)
        self.squares: torch.Tensor | None = None
        self.products: torch.Tensor | None = None

    def add(self, inputs: torch.Tensor, missing: torch.Tensor) -> None:
        """Takes up tokens: inputs [tokens, left] of the matrix, and what its outputs lack [tokens, width]."""
        squares, products = (inputs.T @ inputs).double(), (missing.T @ inputs).double()
        self.squares = squares if self.squares is None else self.squares.add_(squares)
        self.products = products if self.products is None else self.products.add_(products)

    def refitted(self, damping: float) -> torch.Tensor:
        """Returns the matrix in the layout of its module."""
        assert self.squares is not None
        assert self.products is not None
        shift = damping * float(self.squares.diagonal().mean())
        weight: torch.Tensor = self.matrix.weight.detach()
        if shift == 0:
            return weight
        metric = self.squares + shift * torch.eye(len(self.squares), dtype=torch.float64)
        change = torch.linalg.solve(metric, self.products.T).T.float()
        # Modules of other kinds keep [inputs, outputs].
        refitted: torch.Tensor = weight + (change if isinstance(self.matrix, nn.Linear) else change.T)
        return refitted


def _modules(network: nn.Module, outlet: str) -> tuple[Any, Any]:
    return network.get_submodule(_part(outlet)), network.get_submodule(outlet.removesuffix(WEIGHT))


@torch.inference_mode()
def _gathered(teacher: nn.Module, pairs: Sequence[_Pair], windows: torch.Tensor, progress: Progress) -> Sequence[_Pair]:
    """Returns the pairs with sums over all windows [windows, tokens], added in their order."""
    turns, seen = Turns(), threading.local()
    base: Any = teacher.base_model

    def passed(job: tuple[int, torch.Tensor]) -> None:
        number, window = job
        seen.found = {}
        try:
            with torch.inference_mode():
                base(input_ids=window[None], use_cache=False)
        finally:
            with turns.take(number):
                for pair in pairs:
                    if pair.outlet in seen.found:
                        pair.add(*seen.found[pair.outlet])

    hooks = [hook for pair in pairs for hook in _watch(pair, seen)]
    try:
        for _ in progress.track(ordered(passed, enumerate(windows), compute_alone), "Refitting", len(windows)):
            pass
    finally:
        for hook in hooks:
            hook.remove()
    return pairs


def _watch(pair: _Pair, seen: Any) -> Iterator[Any]:
    """Hooks that run the thinned part on what the original's part is given, and put both sides into `seen.found`."""

    def flat(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, x.shape[-1])

    def enter(_: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        pair.part(*inputs, **named)

    def thinned(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.inputs = inputs[0]

    def leave(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        # Its own hook would take up these inputs again, which are the same.
        seen.found[pair.outlet] = flat(seen.inputs), flat(output - pair.matrix(seen.inputs))

    yield pair.whole.register_forward_pre_hook(enter, with_kwargs=True)
    yield pair.matrix.register_forward_pre_hook(thinned)
    yield pair.original.register_forward_hook(leave)
