"""Compares a written file with the model: every weight as its type rounds it, and the logits of a few tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from mediant.errors import ExportError
from mediant.exporters import _checking
from mediant.exporters._dense import Dense
from mediant.exporters.gguf.reading import GgufModel
from mediant.exporters.gguf.tensors import Stored, rounded
from mediant.progress import Progress


def check_file(file: Path, model: Dense, tensors: Sequence[Stored], progress: Progress) -> None:
    """Refuses a file that does not read back as the model.

    Raises:
        ExportError: naming the tensor that is off, or by how much the logits are.
    """
    kinds = {tensor.source: tensor.kind for tensor in tensors if tensor.source}
    written = GgufModel(file)
    if not _checking.fits_memory(model.weights):
        some = _checking.sample(kinds)
        for name in progress.track(some, "Reading back", len(some)):
            _compare(name, written.tensor(name), rounded(_values(model, name), kinds[name]))
        progress.say(f"The model is too large to compare logits here; {len(some)} of {len(kinds)} tensors are right.")
        return
    network = model.load()
    _round(network, kinds)
    expected = _checking.outputs(network)
    state = network.state_dict()
    for name in progress.track(kinds, "Reading back", len(kinds)):
        _compare(name, written.tensor(name), state[name].numpy())
    del network, state
    found = written.network()
    _checking.compare_outputs(expected, _checking.outputs(found), found)


def _values(model: Dense, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    values: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = model.tensors[name].read().float().numpy()
    return values


def _round(network: PreTrainedModel, kinds: dict[str, str]) -> None:
    """Rounds the weights as their types in the file do."""
    state = network.state_dict()
    for name, kind in kinds.items():
        if kind != "f32":
            state[name].copy_(torch.from_numpy(rounded(state[name].numpy(), kind)))


def _compare(name: str, found: object, expected: object) -> None:
    if not np.array_equal(found, expected):  # type: ignore[arg-type]
        raise ExportError(f"The tensor {name!r} does not read back as it was written; nothing was kept.")
