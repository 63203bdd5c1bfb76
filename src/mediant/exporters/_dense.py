"""What exporters take: a compressed checkpoint or a plain model as a configuration and tensors read one at a time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from mediant.checkpoint.manifest import MANIFEST_FILE
from mediant.checkpoint.reader import Checkpoint, open_checkpoint
from mediant.models import architecture
from mediant.models.file_names import as_in_files
from mediant.models.lazy import LazyTensor
from mediant.models.opening import open_model
from mediant.models.reference import load_reference
from mediant.models.sidecar_files import travelling
from mediant.models.source import locate
from mediant.models.weights import WeightReader
from mediant.progress import SILENT, Progress

Tensors = dict[str, LazyTensor]


@dataclass(frozen=True)
class Dense:
    """A model without compression.

    `folder` is where it lies. `configuration` is what transformers makes of its `config.json`. `tensors` are by their
    names in the network, tied ones once, in the types they are stored in; those of a checkpoint are float32. `files`
    are its tokenizer's. `named` gives tensors the names that the files of the original have. `load` gives the network
    with all weights, in float32.
    """

    name: str
    folder: Path
    configuration: PretrainedConfig
    tensors: Tensors
    files: dict[str, Path]
    named: Callable[[Tensors], Tensors]
    load: Callable[[], PreTrainedModel]

    @property
    def config(self) -> dict[str, Any]:
        """The model's `config.json`, with defaults, and without the compression."""
        config: dict[str, Any] = json.loads(self.configuration.to_json_string(use_diff=False))
        config.pop("quantization_config", None)
        return config

    @property
    def weights(self) -> int:
        """Number of weights, tied ones once."""
        return sum(torch.Size(t.shape).numel() for t in self.tensors.values())


@contextlib.contextmanager
def opened(spec: str, progress: Progress = SILENT) -> Iterator[Dense]:
    """The compressed checkpoint in the folder `spec`, decoded, or the plain model of that name.

    Raises:
        CheckpointError, ModelError: it is damaged, or there is none.
    """
    found = locate(spec, progress)
    if (found / MANIFEST_FILE).is_file():
        yield _from_checkpoint(open_checkpoint(found))
        return
    model = open_model(str(found), progress)
    with WeightReader(model) as weights:
        yield Dense(
            model.name,
            model.path,
            architecture.load_config(model.path),
            weights.lazy(),
            _files(model.path),
            partial(_as_stored, weights),
            partial(load_reference, model),
        )


def _from_checkpoint(checkpoint: Checkpoint) -> Dense:
    def read(name: str) -> torch.Tensor:
        return torch.from_numpy(checkpoint.weight(name))

    folder = checkpoint.folder
    config = architecture.load_config(folder)
    tensors = {n: LazyTensor(e.info.shape, torch.float32, partial(read, n)) for n, e in checkpoint.tensors.items()}
    return Dense(
        checkpoint.model.name,
        folder,
        config,
        tensors,
        _files(folder),
        partial(as_in_files, network=architecture.empty_network(config)),
        partial(_network, config, checkpoint),
    )


def _files(folder: Path) -> dict[str, Path]:
    return travelling(folder)


def _as_stored(weights: WeightReader, tensors: Tensors) -> Tensors:
    """Tensors that lie in the files as they are have their names there; stacks are taken apart by rule."""
    network = architecture.empty_network(architecture.load_config(weights.model.path))
    keys = {name: weights.key(name) for name in tensors}
    built = as_in_files({n: t for n, t in tensors.items() if keys[n] is None}, network, weights.keys)
    return {key: tensors[n] for n, key in keys.items() if key is not None} | built


def _network(config: PretrainedConfig, checkpoint: Checkpoint) -> PreTrainedModel:
    """Returns the network with the decoded weights, all names of tied ones given."""
    plain = type(config).from_dict({k: v for k, v in config.to_dict().items() if k != "quantization_config"})
    state: Mapping[str, torch.Tensor] = {n: torch.from_numpy(w).clone() for n, w in checkpoint.state(aliases=True)}
    network: PreTrainedModel = architecture.network_class(config).from_pretrained(
        None, config=plain, state_dict=dict(state), dtype=torch.float32
    )
    return network.eval()
