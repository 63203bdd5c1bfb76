"""The network in a GGUF file: its configuration, and its tensors by transformers' names, read one at a time.

Nothing is left over: every number of the header is in the configuration or listed as irrelevant, every tensor of the
file is in the network and every tensor of the network in the file, or the file is refused with the name of what is
not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import PretrainedConfig

from mediant.errors import ModelError
from mediant.models import architecture, roles
from mediant.models.gguf import ledger
from mediant.models.gguf.families import families
from mediant.models.gguf.file import GGUFFile
from mediant.models.gguf.header import Header
from mediant.models.gguf.parts import Family, Part, alone
from mediant.models.lazy import LazyTensor

LAYER = re.compile(r"\.(\d+)\.")
ENDINGS = (".weight", ".bias")


@dataclass(frozen=True)
class Network:
    """A configuration of transformers and every tensor of its network, tied ones once, under the first name.

    `rows` read some entries of the first axis, for the tensors that lie in the file as the network has them.
    """

    config: PretrainedConfig
    tensors: Mapping[str, LazyTensor]
    rows: Mapping[str, Callable[[slice], NDArray[np.float32]]]


def network(file: GGUFFile) -> Network:
    """Returns the network that `file` holds; values are dequantized when a tensor is read.

    Raises:
        ModelError: the architecture is none of `families`, or a number or tensor has no place, or lacks.
    """
    family = _family(file)
    config = configuration(file, family)
    empty = architecture.empty_network(config)
    infos = roles.describe(empty)
    wanted = {group[0]: infos[group[0]].shape for group in roles.ties(empty)}
    sources = {name: _sources(family, name, file) for name in wanted}
    _check_places(file, config, wanted, sources)
    tensors = {
        name: LazyTensor(shape, torch.float32, partial(_read, file, config, name, shape, sources[name]))
        for name, shape in wanted.items()
    }
    rows = {
        name: partial(file.read, part.names[0])
        for name, part in sources.items()
        if part is not None and part.change is alone and part.names and file.shape(part.names[0]) == wanted[name]
    }
    return Network(config, tensors, rows)


def configuration(file: GGUFFile, family: Family) -> PretrainedConfig:
    """Returns the configuration that the header describes.

    Raises:
        ModelError: a number of it is missing, contradicts another, or has no place in the configuration.
    """
    header = Header(file)
    network_class = getattr(transformers, family.network)
    settings = _settings(file, family, header) | _special_tokens(file)
    header.check_all_taken()
    architecture.check_counts(settings, f"The header of the GGUF file {file.path}")
    try:
        config: PretrainedConfig = network_class.config_class(**settings)
    except Exception as problem:  # a configuration class may raise anything at all over a bad value
        raise ModelError(f"transformers refuses the numbers in the header of {file.path}: {problem}") from problem
    _check_kept(file, config, settings)
    config.architectures = [family.network]
    config.dtype = "float32"
    return config


def _settings(file: GGUFFile, family: Family, header: Header) -> dict[str, Any]:
    layers = file.fields.get(f"{file.architecture}.block_count", 0)
    if isinstance(layers, int) and layers > len(file.tensors):
        raise ModelError(
            f"The header of the GGUF file {file.path} says {layers} layers, but the file holds {len(file.tensors)}"
            " tensors in all."
        )
    try:
        return family.settings(header)
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as problem:
        raise ModelError(
            f"The numbers in the header of {file.path} cannot be those of a {family.network}: {problem}"
        ) from problem


def _family(file: GGUFFile) -> Family:
    name = file.architecture
    if name == "llama" and file.fields.get("llama.expert_count"):
        name = "mixtral"
    if name not in families():
        raise ModelError(
            f"The GGUF file {file.path} is of the architecture {name!r}, and Mediant reads {', '.join(families())};"
            " give the Hugging Face folder it was made from."
        )
    return families()[name]


def _special_tokens(file: GGUFFile) -> dict[str, int | None]:
    keys = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    return {name: file.fields.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}


def _check_kept(file: GGUFFile, config: PretrainedConfig, settings: Mapping[str, object]) -> None:
    """Compares what was asked for with what the configuration made of it, which drops what it does not know."""
    for name, value in settings.items():
        kept = getattr(config, name, None)
        if isinstance(value, dict) and isinstance(kept, dict):
            same = all(kept.get(key) == item for key, item in value.items())
        else:
            same = kept == value
        if not same:
            raise ModelError(
                f"{type(config).__name__} of transformers {transformers.__version__} does not keep {name} = {value},"
                f" which the GGUF file {file.path} says; it has {kept}."
            )


def _sources(family: Family, name: str, file: GGUFFile) -> Part | None:
    """Returns the tensors of the file that a tensor of the network is made of, with the layer filled in; None if
    unknown.
    """
    layer = LAYER.search(name)
    template = LAYER.sub(".{n}.", name, count=1)
    module, ending = template, ""
    part = family.parts.get(template)
    if part is None:
        module, _, leaf = template.rpartition(".")
        ending = f".{leaf}" if f".{leaf}" in ENDINGS else ""
        part = family.parts.get(module) if ending else None
    if part is None:
        return None
    names = tuple(n.replace("{n}", layer[1] if layer else "") + ending for n in part.names)
    if template in family.zero and not any(n in file.tensors for n in names):
        return Part((), part.change)
    return Part(names, part.change)


def _check_places(
    file: GGUFFile, config: PretrainedConfig, wanted: Mapping[str, tuple[int, ...]], sources: Mapping[str, Part | None]
) -> None:
    """Refuses a file and a network that do not cover each other."""
    used = {name for part in sources.values() if part is not None for name in part.names}
    lacking = [name for name, part in sources.items() if part is None or not all(n in file.tensors for n in part.names)]
    if lacking:
        raise ModelError(
            f"The weights in {file.path} lack tensors of the network, {len(lacking)} in all, such as {lacking[0]}."
        )
    left = [name for name in file.tensors if name not in used and not ledger.not_a_weight(name)]
    if left:
        raise ModelError(
            f"{config.architectures[0]} of transformers has no place for {len(left)} tensors of the GGUF file"
            f" {file.path}: {_listed(left)}; give the Hugging Face folder it was made from."
        )
    for name, part in sources.items():
        if part is not None:
            _check_size(file, name, wanted[name], part)


def _check_size(file: GGUFFile, name: str, shape: tuple[int, ...], part: Part) -> None:
    held = [file.shape(n) for n in part.names]
    if part.names and sum(int(np.prod(s)) for s in held) != int(np.prod(shape)):
        raise ModelError(
            f"The tensor {part.names[0]!r} of {file.path} has the shape {held[0]}, but the numbers of the header ask"
            f" for {shape} in {name!r}."
        )


def _read(
    file: GGUFFile, config: PretrainedConfig, name: str, shape: tuple[int, ...], part: Part | None
) -> torch.Tensor:
    if part is None or not part.names:
        return torch.zeros(shape)
    try:
        values = part.change([file.read(n) for n in part.names], config)
    except ValueError as problem:  # axes that cannot be folded so
        raise ModelError(f"The tensor {part.names[0]!r} of {file.path} cannot become {name!r}: {problem}.") from None
    if values.shape != shape:
        raise ModelError(
            f"The tensor {part.names[0]!r} of {file.path} becomes {values.shape}, but {name!r} is {shape} by the"
            " header."
        )
    return torch.from_numpy(np.require(values, np.float32, ["C", "W", "O"]))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more} more" if more > 0 else "")
