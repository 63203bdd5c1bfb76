"""A compressed checkpoint as an ordinary network of transformers, its weights decoded to float32."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from mediant.checkpoint.reader import Checkpoint, open_checkpoint
from mediant.errors import CheckpointError
from mediant.models import adapter_files, architecture, generation_settings
from mediant.models.remote_code import trusting
from mediant.models.source import locate
from mediant.runtime.block_sparse_layers import skip_zero_blocks


def load(folder: str | Path, planes: int | None = None, trust_remote_code: bool = False) -> PreTrainedModel:
    """Returns the network in the checkpoint at `folder`, or of that id on the hub, in float32 and evaluation mode.

    It is a plain network: `save_pretrained` writes it dense, without compression. With `planes`, only so many leading
    bits of every code are read, from a checkpoint that was made for it (recipe `nested`). With `trust_remote_code`,
    Python code that comes with the model is run; without it a model that needs some is refused.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, its tensors are not those of its network, or its codes
            cannot be read by their leading bits.
        ModelError: transformers does not know its architecture, or the hub has nothing of that id.
    """
    with trusting(trust_remote_code):
        return _load(folder, planes)


def _load(folder: str | Path, planes: int | None) -> PreTrainedModel:
    checkpoint = open_checkpoint(Path(folder) if Path(folder).exists() else locate(str(folder)))
    adapter_files.refuse_beside(checkpoint.folder)
    config = architecture.load_config(checkpoint.folder)
    network_class = architecture.network_class(config)
    settings = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    network, report = build(network_class, checkpoint, config, settings, planes=planes)
    strange = [*report["missing_keys"], *report["unexpected_keys"], *(key[0] for key in report["mismatched_keys"])]
    if strange:
        raise CheckpointError(
            f"The tensors in {folder} are not those of {network_class.__name__} by its config.json:"
            f" {min(strange)!r} is missing, superfluous or of another shape."
        )
    loaded: PreTrainedModel = network
    return loaded


def build(
    network_class: type[PreTrainedModel],
    checkpoint: Checkpoint,
    config: PretrainedConfig,
    settings: Mapping[str, Any],
    arguments: Sequence[Any] = (),
    planes: int | None = None,
) -> Any:
    """Builds the network that `network_class.from_pretrained(folder, *arguments, **settings)` should give.

    They are float32 unless `settings` ask for another `dtype`: rounding them to the type in which the original was
    stored would be an error on top of the compression's.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    asked = {name: value for name, value in settings.items() if name != "dtype" or value not in (None, "auto")}
    result = network_class.from_pretrained(
        None,
        *arguments,
        config=_dense(config),
        # Copies, because torch aligns memory more than NumPy does, and the order of its sums depends on that.
        state_dict={name: torch.from_numpy(weights).clone() for name, weights in checkpoint.state(planes=planes)},
        **{"dtype": torch.float32, **asked},
    )
    network = result[0] if settings.get("output_loading_info") else result
    skip_zero_blocks(network, checkpoint)
    _restore(network, checkpoint.folder, own_generation=settings.get("generation_config") is None)
    return result


def _dense(config: PretrainedConfig) -> PretrainedConfig:
    """Returns the configuration of the same network without compression."""
    dense = copy.deepcopy(config)
    if hasattr(dense, "quantization_config"):
        del dense.quantization_config
    return dense


def _restore(network: PreTrainedModel, folder: Path, own_generation: bool) -> None:
    """Sets what transformers only sets when it reads a folder: the network's origin and generation settings."""
    network.config.name_or_path = network.name_or_path = str(folder)
    # It was given the network's own names; save_pretrained writes those of this architecture's files all the same.
    network._weight_conversions = None
    if own_generation:
        generation_settings.restore(network, folder)
