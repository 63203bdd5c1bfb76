"""Statistics of every expert of a stack, over the tokens that the router sends to it.

transformers keeps the experts of a layer as 3-D parameters and runs them in one function, so no hook of a module sees
what a single expert is given. Here the forward pass of such a module is replaced by one that does the same and notes,
for each expert, how many tokens it saw, the squares of its inputs and of the gradients at its outputs.

With c_e the tokens that expert e saw, of T, the loss of an error E_e in its matrix is taken as

    1/2 sum_i f_ei E_ei H_e E_ei^T,    f_ei = (c_e / T) g_ei^2,

H_e = E[x x^T] and g_ei^2 = E[(dl/dy_i)^2] over these tokens alone; the router's weight is within g. An expert that saw
few tokens borrows from all of them: its means are taken as if it had also seen some tokens like the mean of the stack,
and a tenth of all use is spread evenly, so that an expert that calibration never reached is not left to rot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mediant.values import Array, LayerStatistics, Model

# As of rows of an embedding (`mediant.statistics.sensitivity`).
EVEN_SHARE = 0.1
# Tokens like the mean of the stack that an expert is taken to have seen beside its own.
BORROWED = 16

# name of the stack, name of the sum, value by expert
Note = Callable[[str, str, Tensor], None]
# name of the stack, inputs of each expert, whether columns mean the same for all
NoteInputs = Callable[[str, list[Tensor], bool], None]


def watch(network: nn.Module, model: Model, temper: Callable[[Tensor], Tensor], note: Note, inputs: NoteInputs) -> None:
    """Has every module of fused experts note what its experts see.

    Args:
        network: its modules with experts are changed, but compute what they did.
        model: whose stacks of experts are of interest.
        temper: bounds the energy of tokens [tokens, columns].
        note: is told `count` [experts], `square` and `mean` [experts, columns], and in a backward pass `fisher`
            [experts, rows] and `backward` [experts], all sums over tokens.
        inputs: is told the tempered inputs.
    """
    stacks = {t.name: t for t in model.tensors if t.role == "expert"}
    for path, module in network.named_modules():
        names = [f"{path}.{leaf}" for leaf, p in module.named_parameters(recurse=False) if f"{path}.{leaf}" in stacks]
        if len(names) == 2 and hasattr(module, "is_transposed") and hasattr(module, "has_gate"):
            forward = _forward(names[0], names[1], temper, note, inputs)
            module.forward = MethodType(forward, module)


def _forward(first: str, last: str, temper: Callable[[Tensor], Tensor], note: Note, inputs: NoteInputs) -> Any:
    def forward(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        experts = len(getattr(self, last.rpartition(".")[2]))
        chosen = top_k_index.reshape(-1)
        order = chosen.argsort(stable=True)
        counts = torch.bincount(chosen, minlength=experts)[:experts]
        order, sizes = order[: int(counts.sum())], counts.tolist()
        tokens = order // top_k_index.shape[-1]

        def product(name: str, x: Tensor, tempered: Tensor, alike: bool) -> Tensor:
            note(name, "count", counts)
            note(name, "mean", _sums(x.detach(), sizes))
            note(name, "square", _sums(tempered.square(), sizes))
            inputs(name, list(tempered.split(sizes)), alike)
            y = _products(self, name.rpartition(".")[2], x, sizes)
            if y.requires_grad:
                note(name, "backward", counts)
                y.register_hook(lambda g: note(name, "fisher", _sums(g.square(), sizes)))
            return y

        # Tokens are tempered before they are sent on, since the median is that of a window.
        up = product(first, hidden_states[tokens], temper(hidden_states.detach())[tokens], True)
        inner = self._apply_gate(up) if self.has_gate else self.act_fn(up)
        y = product(last, inner, temper(inner.detach()), False)
        if getattr(self, "has_post_expert_norm", False):
            y = self.post_expert_norm(y)
        weighted = y * top_k_weights.reshape(-1)[order, None]
        return torch.zeros_like(hidden_states).index_add(0, tokens, weighted.to(hidden_states.dtype))

    return forward


def _products(module: Any, leaf: str, x: Tensor, sizes: list[int]) -> Tensor:
    """Each expert's product with its own tokens, those of expert 0 first."""
    stack, bias = getattr(module, leaf), getattr(module, f"{leaf}_bias", None)
    matrices = stack if module.is_transposed else stack.transpose(1, 2)
    parts = [part @ matrices[e] for e, part in enumerate(x.split(sizes))]
    if bias is not None:
        parts = [part + bias[e] for e, part in enumerate(parts)]
    return torch.cat(parts)


def _sums(x: Tensor, sizes: list[int]) -> Tensor:
    """Returns the sum of each expert's rows, [experts, columns]."""
    return torch.stack([part.sum(0) for part in x.split(sizes)])


def by_expert(part: Mapping[str, Array], alike: bool, tokens: int) -> LayerStatistics:
    """Returns statistics of a stack from the sums of `watch` over `tokens` tokens."""
    count, backward = part["count"].astype(np.float64), part["backward"].astype(np.float64)
    square, total = part["square"], max(1.0, float(count.sum()))
    usual = square.sum(0) / total if alike else np.full(square.shape[1], square.sum() / total / square.shape[1])
    g = part["fisher"]
    usual_fisher = float(g.sum()) / max(1.0, float(backward.sum())) / g.shape[1]
    fisher = (g + BORROWED * usual_fisher) / (backward + BORROWED)[:, None]
    use = ((1 - EVEN_SHARE) * count + EVEN_SHARE * total / len(count)) / tokens
    return LayerStatistics(
        input_square=(square + BORROWED * usual) / (count + BORROWED)[:, None],
        input_mean=part["mean"] / np.maximum(count, 1)[:, None],
        output_fisher=(use[:, None] * fisher).reshape(-1),
        tokens=tokens,
        expert_tokens=count,
    )


def warning(layers: Mapping[str, LayerStatistics]) -> str | None:
    """Returns one sentence about experts that saw fewer tokens than they have inputs, if there are any."""
    seen = [
        (int(count), s.input_square.shape[1])
        for s in layers.values()
        if s.expert_tokens is not None
        for count in s.expert_tokens
    ]
    few = [count for count, inputs in seen if count < inputs]
    if not few:
        return None
    return (
        f"{len(few)} of {len(seen)} matrices of experts saw fewer tokens than they have inputs, the least {min(few)}; "
        "they borrow from the other experts. More text (--calibration) would help."
    )
