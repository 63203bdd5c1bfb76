"""From `config.json` to the class of transformers that is its model, with or without weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from mediant.errors import ModelError
from mediant.models.folder import read_config

# Entries that count modules, as num_hidden_layers does, and the most that is believed.
COUNTS = re.compile(r"(n|num|encoder|decoder)_((?!per_)[a-z]+_)*(layers?|experts|blocks)$")
MOST = 4096
# What a network's constructor raises over numbers that do not go together.
BUILDING = (LookupError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError, ArithmeticError)


def load_config(folder: Path) -> PretrainedConfig:
    """The configuration of the model in `folder`.

    Raises:
        ModelError: the installed transformers does not know its `model_type`, or refuses one of its values.
    """
    entries = read_config(folder)
    _check_known(entries.get("model_type"), folder)
    check_counts(entries, f"The config.json of {folder}")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as problem:  # a configuration class may raise anything at all over a bad value
        raise ModelError(f"The config.json of {folder} is refused by transformers: {problem}") from problem


def build_config(entries: Mapping[str, Any], where: str) -> PretrainedConfig:
    """The configuration that the entries of a `config.json` describe; `where` is the model, for messages.

    Raises:
        ModelError: the installed transformers does not know its `model_type`, or refuses one of its values.
    """
    _check_known(entries.get("model_type"), where)
    check_counts(entries, f"The config.json of {where}")
    try:
        config_class = transformers.CONFIG_MAPPING[entries["model_type"]]
        found: PretrainedConfig = config_class.from_dict(copy.deepcopy(dict(entries)))
        return found
    except Exception as problem:  # a configuration class may raise anything at all over a bad value
        raise ModelError(f"The config.json of {where} is refused by transformers: {problem}") from problem


def check_counts(entries: Mapping[str, Any], where: str) -> None:
    """Refuses entries of a configuration, nested ones too, whose network would take forever to build.

    Raises:
        ModelError: naming the entry; `where` begins its sentence.
    """
    for name, value in entries.items():
        if isinstance(value, dict):
            check_counts(value, where)
        elif COUNTS.match(str(name)) and isinstance(value, int | float) and value > MOST:
            raise ModelError(f"{where} says {name} = {str(value)[:20]}, and no network has more than {MOST}.")


def network_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class that `config.architectures` names, else the causal model of its type, else its bare model.

    Raises:
        ModelError: transformers has no model for it.
    """
    for name in config.architectures or ():
        named = getattr(transformers, name, None)
        if isinstance(named, type) and issubclass(named, PreTrainedModel) and _takes(named, config):
            return named
    causal, masked = transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.MODEL_FOR_MASKED_LM_MAPPING
    both_ways = type(config) in masked and getattr(config, "is_decoder", None) is False
    for mapping in (transformers.MODEL_MAPPING,) if both_ways else (causal, transformers.MODEL_MAPPING):
        if type(config) in mapping:
            return _classes(mapping, config)[0]
    raise ModelError(f"transformers {transformers.__version__} has no model for the model_type {config.model_type!r}.")


def empty_network(config: PretrainedConfig) -> PreTrainedModel:
    """The network on the meta device: names, shapes and classes, no memory.

    Raises:
        ModelError: the configuration does not describe a network.
    """
    try:
        with torch.device("meta"):
            return network_class(config)(config)
    except BUILDING as problem:
        raise ModelError(
            f"transformers cannot build a {config.model_type!r} model from this configuration: {problem}"
        ) from problem


def _takes(network: type[PreTrainedModel], config: PretrainedConfig) -> bool:
    expected = network.config_class
    return expected is not None and isinstance(config, expected)


def _classes(mapping: Any, config: PretrainedConfig) -> tuple[type[PreTrainedModel], ...]:
    found = mapping[type(config)]
    return found if isinstance(found, tuple) else (found,)


def _check_known(model_type: Any, where: str | Path) -> None:
    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        raise ModelError(
            f"The config.json of {where} has the model_type {model_type!r}, which transformers"
            f" {transformers.__version__} does not know; Mediant takes the models built into transformers."
        )
