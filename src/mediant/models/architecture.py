"""From `config.json` to the class of transformers that is its model, with or without weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from mediant import files
from mediant.errors import ModelError
from mediant.models import remote_code
from mediant.models.folder import read_config

# Entries that count modules, as num_hidden_layers does, and the most that is believed.
COUNTS = re.compile(r"(n|num|encoder|decoder)_((?!per_)[a-z]+_)*(layers?|experts|blocks)$")
MOST = 4096
# What a network's constructor raises over numbers that do not go together, or over a library that it needs beside.
BUILDING = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    RuntimeError,
    ArithmeticError,
    ImportError,
)


def load_config(folder: Path) -> PretrainedConfig:
    """Returns the configuration of the model in `folder`; of a model run by its own code, `architectures` names its
    class.

    Raises:
        ModelError: the installed transformers does not know its `model_type`, or refuses one of its values; or it needs
            code of its own that is not trusted (`remote_code`).
    """
    entries = read_config(folder)
    if runs_own_code(entries, folder):
        return _own_config(entries, folder)
    _check_known(entries.get("model_type"), folder)
    check_counts(entries, f"The config.json of {folder}")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as problem:  # a configuration class may raise anything at all over a bad value
        raise ModelError(
            f"The config.json of {folder} is refused by transformers: {files.reason(problem)}"
        ) from problem


def runs_own_code(entries: Mapping[str, Any], where: object) -> bool:
    """Returns True if code that comes with a model is its configuration or its network, rather than transformers' own.

    Args:
        entries: its `config.json`.
        where: the model, for messages.

    Raises:
        ModelError: transformers has no such model, and the code is not trusted.
    """
    own = remote_code.references(entries.get("auto_map"))
    if own and not remote_code.trusted() and not _has(entries, own):
        raise ModelError(remote_code.refusal(where))
    return bool(own) and remote_code.trusted()


def build_config(entries: Mapping[str, Any], where: str) -> PretrainedConfig:
    """Returns the configuration that the entries of a `config.json` describe; `where` is the model, for messages.

    Raises:
        ModelError: the installed transformers does not know its `model_type`, or refuses one of its values; or it needs
            code of its own that is not trusted.
    """
    runs_own_code(entries, where)
    _check_known(entries.get("model_type"), where)
    check_counts(entries, f"The config.json of {where}")
    try:
        config_class = transformers.CONFIG_MAPPING[entries["model_type"]]
        found: PretrainedConfig = config_class.from_dict(_with_floats(dict(entries)))
        return found
    except Exception as problem:  # a configuration class may raise anything at all over a bad value
        raise ModelError(f"The config.json of {where} is refused by transformers: {files.reason(problem)}") from problem


def _with_floats(entries: Any) -> Any:
    """Returns a copy of entries in which what JSON lacks is a number again: transformers writes `{"__float__":
    "Infinity"}`.
    """
    if isinstance(entries, Mapping):
        if set(entries) == {"__float__"}:
            return float(entries["__float__"])
        return {name: _with_floats(value) for name, value in entries.items()}
    return [_with_floats(value) for value in entries] if isinstance(entries, list) else entries


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
    """Returns the class that `config.architectures` names, else the causal model of its type, else its bare model.

    Where code that comes with the model is trusted, its class goes first.

    Raises:
        ModelError: transformers has no model for it, or it needs code of its own that is not trusted.
    """
    if (own := own_class(config)) is not None:
        return own
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


def own_class(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """Returns the class of the network in the code that comes with a model, where that is trusted.

    Raises:
        ModelError: it is needed and not trusted, or is not a network of transformers.
    """
    auto_map, folder = getattr(config, "auto_map", None), config.name_or_path
    if not auto_map or not runs_own_code(vars(config) | {"model_type": config.model_type}, folder):
        return None
    kind = remote_code.network_kind(auto_map, config.architectures)
    if kind is None:
        return None
    found = remote_code.load_class(auto_map[kind], folder)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise ModelError(f"{auto_map[kind]}, which comes with {folder}, is not a PreTrainedModel of transformers.")
    return found


def empty_network(config: PretrainedConfig) -> PreTrainedModel:
    """Returns the network on the meta device: names, shapes and classes, no memory.

    Raises:
        ModelError: the configuration does not describe a network.
    """
    try:
        with torch.device("meta"):
            return network_class(config)(config)
    except BUILDING as problem:
        raise ModelError(
            f"transformers cannot build a {config.model_type!r} model from this configuration: {files.reason(problem)}"
        ) from problem


def _own_config(entries: Mapping[str, Any], folder: Path) -> PretrainedConfig:
    check_counts(entries, f"The config.json of {folder}")
    reference = entries["auto_map"].get(remote_code.CONFIGURATION)
    if reference is None:
        _check_known(entries.get("model_type"), folder)
    found = (
        remote_code.load_class(reference, folder) if reference else transformers.CONFIG_MAPPING[entries["model_type"]]
    )
    try:
        config: PretrainedConfig = found.from_pretrained(folder, local_files_only=True)
    except Exception as problem:  # code of others may raise anything at all
        raise ModelError(
            f"The config.json of {folder} is refused by the code that comes with it: {files.reason(problem)}"
        ) from problem
    config.name_or_path = str(folder)
    if network := own_class(config):
        config.architectures = [network.__name__]
    return config


def _has(entries: Mapping[str, Any], own: Mapping[str, str]) -> bool:
    """Returns True if transformers itself has the classes that a `config.json` names."""
    names = entries.get("architectures") or [r.rpartition(".")[2] for k, r in own.items() if k.startswith("AutoModel")]
    return entries.get("model_type") in transformers.CONFIG_MAPPING and all(
        isinstance(name, str) and hasattr(transformers, name) for name in names
    )


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
