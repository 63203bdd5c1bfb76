"""What exporters take: a compressed checkpoint or a plain model as a configuration and tensors read one at a time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mediant.checkpoint.manifest import MANIFEST_FILE
from mediant.checkpoint.reader import Checkpoint, open_checkpoint
from mediant.models.architecture import load_config
from mediant.models.companions import tokenizer_files
from mediant.models.lazy import LazyTensor
from mediant.models.opening import open_model
from mediant.models.weights import WeightReader
from mediant.progress import SILENT, Progress


@dataclass(frozen=True)
class Dense:
    """A model without compression. `config` is what `config.json` says, with defaults; `files` the tokenizer's."""

    name: str
    config: dict[str, Any]
    tensors: dict[str, LazyTensor]
    files: dict[str, Path]


@contextlib.contextmanager
def opened(spec: str, dtype: torch.dtype, progress: Progress = SILENT) -> Iterator[Dense]:
    """The compressed checkpoint in the folder `spec`, decoded, or the plain model of that name; tensors in `dtype`.

    Raises:
        CheckpointError, ModelError: it is damaged, or there is none.
    """
    if (Path(spec) / MANIFEST_FILE).is_file():
        checkpoint = open_checkpoint(Path(spec))
        yield _dense(checkpoint.model.name, checkpoint.folder, _decoded(checkpoint, dtype), dtype)
        return
    model = open_model(spec, progress)
    with WeightReader(model) as weights:
        tensors = {name: _cast(tensor, dtype) for name, tensor in weights.lazy().items()}
        yield _dense(model.name, model.path, tensors, dtype)


def _dense(name: str, folder: Path, tensors: dict[str, LazyTensor], dtype: torch.dtype) -> Dense:
    config: dict[str, Any] = json.loads(load_config(folder).to_json_string(use_diff=False))
    config.pop("quantization_config", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    return Dense(name, config, tensors, {file.name: file for file in tokenizer_files(folder)})


def _decoded(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, LazyTensor]:
    def read(name: str) -> torch.Tensor:
        return torch.from_numpy(checkpoint.weight(name)).to(dtype)

    return {n: LazyTensor(e.info.shape, dtype, partial(read, n)) for n, e in checkpoint.tensors.items()}


def _cast(tensor: LazyTensor, dtype: torch.dtype) -> LazyTensor:
    return LazyTensor(tensor.shape, dtype, lambda: tensor.read().to(dtype))
