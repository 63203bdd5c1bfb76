"""Hessians of linear layers, E[x x^T] over the calibration tokens, one for all layers that read the same input.

Windows are computed by several threads, but added to a Hessian in the order of the text, so that the sum has the same
bits for any number of threads. Only one copy of each Hessian is held, in float64, and of that little more than the
upper triangle.

Few tokens make for a poor estimate, above all away from the diagonal, so a Hessian is shrunk towards its diagonal:
H <- (1 - a) H + a diag(H) with

    a = sum_{i != j} Var(H_ij) / sum_{i != j} H_ij^2,

which errs least in the sum of squares for a known variance (Schaefer & Strimmer 2005, Stat. Appl. Genet. Mol. Biol.
4(1):32, their target "diagonal, unequal variance"). Deviation: the variance is that of the means of windows, not of
tokens, since the tokens of a window are alike. A single window says nothing about it, and leaves H as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save

from mediant import files
from mediant.workers import compute_alone, ordered

# Columns whose products are computed at once.
BLOCK = 256
# Tokens per input that an expert is taken to have seen beside its own.
BORROWED = 1 / 4

# An upper triangle, with 0 below it: rows [begin, end) from column `begin` on, for every block of columns in turn.
Strips = list[torch.Tensor]


@dataclass(frozen=True)
class Hessians:
    """Hessians on disk: a file for each input, and which tensor reads which."""

    folder: Path
    inputs: Mapping[str, str] = field(default_factory=dict)

    def of(self, tensor: str) -> NDArray[np.float64] | Sequence[NDArray[np.float64]] | None:
        """E[x x^T] [columns, columns] of the inputs of a tensor, or None if calibration did not see it.

        Of a stack of experts, one for each expert, read when it is asked for.
        """
        if expert_key(tensor, 0) in self.inputs:
            return ByExpert(self, tensor)
        return self.read(tensor) if tensor in self.inputs else None

    def read(self, tensor: str) -> NDArray[np.float64]:
        """Returns the Hessian of an input that calibration saw."""
        stored = load_file(self.folder / file_name(self.inputs[tensor]))
        hessian: NDArray[np.float64] = stored["hessian"].double().numpy()
        return hessian

    def shrinkage(self, tensor: str) -> float | None:
        """Returns the share a of the diagonal in the Hessian of a tensor, or None if calibration did not see it."""
        if tensor not in self.inputs:
            return None
        with safe_open(self.folder / file_name(self.inputs[tensor]), "pt") as stored:
            return float(stored.get_tensor("shrinkage"))


@dataclass(frozen=True)
class ByExpert(Sequence[NDArray[np.float64]]):
    """The Hessians of a stack's experts, in their order."""

    hessians: Hessians
    tensor: str

    def __len__(self) -> int:
        return sum(name.startswith(f"{self.tensor}#") for name in self.hessians.inputs)

    def __getitem__(self, number: Any) -> Any:
        return self.hessians.read(expert_key(self.tensor, number))


def expert_key(tensor: str, number: int) -> str:
    """Name of a stack's expert among inputs."""
    return f"{tensor}#{number}"


class Accumulator:
    """Adds up x x^T of every input over the windows of a text."""

    def __init__(self) -> None:
        self.inputs: dict[str, str] = {}
        self._sums: dict[str, Strips] = {}
        self._squares: dict[str, float] = {}
        self._tokens: dict[str, int] = {}
        self._alike: set[str] = set()
        self._added: dict[str, set[int]] = {}
        self._finished: set[int] = set()
        self._failed = False
        self._turn = threading.Condition()
        self._last = threading.local()

    def add(self, tensor: str, window: int, inputs: torch.Tensor, x: torch.Tensor) -> None:
        """Adds the tokens x [tokens, columns] of a window.

        `inputs` is the tensor that the module was called with: where the module before was called with the same one,
        its Hessian serves both.
        """
        if getattr(self._last, "inputs", None) is inputs:
            self.inputs.setdefault(tensor, self._last.key)
        key = self.inputs.setdefault(tensor, tensor)
        self._last.inputs, self._last.key = inputs, key
        if key != tensor:
            return
        product = gram(x)
        square = sum(map(_outside_squares, product))
        with self._turn:
            self._turn.wait_for(lambda: self._failed or self._is_next(key, window))
            if self._failed:
                raise RuntimeError("another window failed")
            if key in self._sums:
                for total, strip in zip(self._sums[key], product, strict=True):
                    total.add_(strip)
            else:
                self._sums[key] = [strip.double() for strip in product]
            self._squares[key] = self._squares.get(key, 0.0) + square
            self._tokens[key] = self._tokens.get(key, 0) + len(x)
            self._added.setdefault(key, set()).add(window)
            self._turn.notify_all()

    def add_experts(self, tensor: str, window: int, parts: Sequence[torch.Tensor], alike: bool) -> None:
        """Adds the tokens [tokens, columns] of each expert of a stack.

        `alike` says that the columns mean the same for all experts, as those of the hidden state do.
        """
        if alike:
            self._alike.add(tensor)
        for number, x in enumerate(parts):
            self.add(expert_key(tensor, number), window, x, x)

    def finish(self, window: int, failed: bool = False) -> None:
        """Says that a window adds nothing more."""
        self._last.inputs = None
        with self._turn:
            self._finished.add(window)
            self._failed |= failed
            self._turn.notify_all()

    def _is_next(self, key: str, window: int) -> bool:
        added = self._added.get(key, set())
        return all(earlier in added or earlier in self._finished for earlier in range(window))

    def store(self, folder: Path, tokens: int) -> Hessians:
        """Writes the means over `tokens` tokens, or over those that an expert saw, shrunk, float32, one file each."""
        usual: dict[str, torch.Tensor] = {}
        for key in self._sums:
            if "#" in key:
                mean = self._of_expert(key, usual).float()
                files.write(folder / file_name(key), save({"hessian": mean, "shrinkage": torch.tensor(0.0)}))

        def store(key: str) -> None:
            mean, windows = whole(self._sums[key]).div_(tokens), len(self._added[key])
            share = shrinkage(mean, self._squares[key] * windows / tokens**2, windows)
            shrunk = shrunk_in_place(mean, share).float()
            files.write(folder / file_name(key), save({"hessian": shrunk, "shrinkage": torch.tensor(share)}))

        for _ in ordered(store, [key for key in self._sums if "#" not in key], compute_alone):
            pass
        return Hessians(folder, dict(self.inputs))

    def _of_expert(self, key: str, usual: dict[str, torch.Tensor]) -> torch.Tensor:
        """Returns the mean of one expert, as if it had seen some more tokens like the mean of all experts."""
        tensor = key.partition("#")[0]
        if tensor not in usual:
            usual[tensor] = self._usual(tensor)
        more = BORROWED * len(usual[tensor])
        return (whole(self._sums[key]) + more * usual[tensor]) / (self._tokens[key] + more)

    def _usual(self, tensor: str) -> torch.Tensor:
        """Returns the mean over the tokens of all experts of a stack, or of its diagonal where columns are not
        alike.
        """
        keys = [key for key in self._sums if key.startswith(f"{tensor}#")]
        seen = max(1, sum(self._tokens[key] for key in keys))
        if tensor in self._alike:
            return torch.stack([whole(self._sums[key]) for key in keys]).sum(0) / seen
        energy = sum(float(whole(self._sums[key]).diagonal().mean()) for key in keys) / seen
        return energy * torch.eye(self._sums[keys[0]][0].shape[1], dtype=torch.float64)


def whole(upper: Strips) -> torch.Tensor:
    """Returns the symmetric matrix of an upper triangle."""
    columns = upper[0].shape[1]
    whole = upper[0].new_empty(columns, columns)
    begin = 0
    for strip in upper:
        end = begin + len(strip)
        whole[begin:end, begin:] = strip
        whole[begin:end, begin:end] += strip[:, : len(strip)].triu(1).T
        whole[end:, begin:end] = strip[:, len(strip) :].T
        begin = end
    return whole


def _outside_squares(strip: torch.Tensor) -> float:
    """Sums the squares that a strip and its mirror image have outside the diagonal."""
    return 2 * float(strip.square().sum(dtype=torch.float64) - strip.diagonal().square().sum())


def gram(x: torch.Tensor) -> Strips:
    """Returns the upper triangle of x^T x for x [tokens, columns], little more than half the work and the memory.

    >>> gram(torch.tensor([[1.0, 2.0]]))[0].tolist()
    [[1.0, 2.0], [0.0, 4.0]]
    """
    columns = x.shape[1]
    strips = []
    for begin in range(0, columns, BLOCK):
        end = min(begin + BLOCK, columns)
        strip = x[:, begin:end].T @ x[:, begin:]
        strip[:, : end - begin].triu_()
        strips.append(strip)
    return strips


def shrinkage(mean: torch.Tensor, squares: float, windows: int) -> float:
    """Returns the share a of the diagonal, 0 to 1, for the mean [n, n] of the Hessians of several windows.

    `squares` is the mean over windows of the summed squares outside the diagonal of their own Hessians.
    """
    off = float(mean.square().sum() - mean.diagonal().square().sum())
    if windows < 2 or off <= 0:
        return 0.0
    variance = (squares - off) / (windows - 1)
    return min(1.0, max(0.0, variance / off))


def shrunk_in_place(mean: torch.Tensor, share: float) -> torch.Tensor:
    """(1 - a) H + a diag(H) for a float64 matrix [n, n], which it overwrites: of many inputs two would not fit.

    >>> shrunk_in_place(torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64), 0.25).tolist()
    [[2.0, 0.75], [0.75, 2.0]]
    """
    diagonal = (mean.diagonal() * share).add_(mean.diagonal(), alpha=1 - share)
    # Adding zero turns -0 into 0, as in a sum with a diagonal matrix.
    mean.mul_(1 - share).add_(0.0).diagonal().copy_(diagonal)
    return mean


def file_name(key: str) -> str:
    """Returns the file of an input, which is named after the first tensor that reads it."""
    return f"hessian-{key}.safetensors"
