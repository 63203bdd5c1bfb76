"""Hessians of linear layers, E[x x^T] over the calibration tokens, one for all layers that read the same input.

Windows are computed by several threads, but added to a Hessian in the order of the text, so that the sum has the same
bits for any number of threads. Only one copy of each Hessian is held, in float64.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save

from mediant import files


@dataclass(frozen=True)
class Hessians:
    """Hessians on disk: a file for each input, and which tensor reads which."""

    folder: Path
    inputs: Mapping[str, str] = field(default_factory=dict)

    def of(self, tensor: str) -> NDArray[np.float64] | None:
        """E[x x^T] [columns, columns] of the inputs of a tensor, or None if calibration did not see it."""
        if tensor not in self.inputs:
            return None
        stored: NDArray[np.float64] = load_file(self.folder / _file(self.inputs[tensor]))["hessian"].double().numpy()
        return stored


class Accumulator:
    """Adds up x x^T of every input over the windows of a text."""

    def __init__(self) -> None:
        self.inputs: dict[str, str] = {}
        self._sums: dict[str, torch.Tensor] = {}
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
        product = x.T @ x
        with self._turn:
            self._turn.wait_for(lambda: self._failed or self._is_next(key, window))
            if self._failed:
                raise RuntimeError("another window failed")
            self._sums[key] = self._sums[key].add_(product) if key in self._sums else product.double()
            self._added.setdefault(key, set()).add(window)
            self._turn.notify_all()

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
        """Writes the means over `tokens` tokens, float32, one file each."""
        for key, total in self._sums.items():
            files.write(folder / _file(key), save({"hessian": (total / tokens).float()}))
        return Hessians(folder, dict(self.inputs))


def _file(key: str) -> str:
    return f"hessian-{key}.safetensors"
