"""From `config.json` to the class of transformers that is its model, with or without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from mediant.errors import ModelError
from mediant.models.folder import read_config


def load_config(folder: Path) -> PretrainedConfig:
    """The configuration of the model in `folder`.

    Raises:
        ModelError: the installed transformers does not know its `model_type`, or refuses one of its values.
    """
    model_type = read_config(folder).get("model_type")
    if model_type not in transformers.CONFIG_MAPPING:
        raise ModelError(
            f"The config.json of {folder} has the model_type {model_type!r}, which transformers"
            f" {transformers.__version__} does not know; Mediant takes the models built into transformers."
        )
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as problem:  # a configuration class may raise anything at all over a bad value
        raise ModelError(f"The config.json of {folder} is refused by transformers: {problem}") from problem


def network_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class that `config.architectures` names, else the causal model of its type, else its bare model.

    Raises:
        ModelError: transformers has no model for it.
    """
    for name in config.architectures or ():
        named = getattr(transformers, name, None)
        if isinstance(named, type) and issubclass(named, PreTrainedModel) and _takes(named, config):
            return named
    for mapping in (transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.MODEL_MAPPING):
        if type(config) in mapping:
            return _classes(mapping, config)[0]
    raise ModelError(f"transformers {transformers.__version__} has no model for the model_type {config.model_type!r}.")


def is_causal(config: PretrainedConfig) -> bool:
    """Whether the model predicts the next token."""
    mapping = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    return type(config) in mapping and network_class(config) in _classes(mapping, config)


def empty_network(config: PretrainedConfig) -> PreTrainedModel:
    """The network on the meta device: names, shapes and classes, no memory.

    Raises:
        ModelError: the configuration does not describe a network.
    """
    try:
        with torch.device("meta"):
            return network_class(config)(config)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, ArithmeticError) as problem:
        raise ModelError(
            f"transformers cannot build a {config.model_type!r} model from this configuration: {problem}"
        ) from problem


def _takes(network: type[PreTrainedModel], config: PretrainedConfig) -> bool:
    expected = network.config_class
    return expected is not None and isinstance(config, expected)


def _classes(mapping: Any, config: PretrainedConfig) -> tuple[type[PreTrainedModel], ...]:
    found = mapping[type(config)]
    return found if isinstance(found, tuple) else (found,)
