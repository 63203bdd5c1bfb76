"""Gives the tensors of a network the names they have in files.

transformers 5 renames tensors and stacks the experts of a mixture when it loads a model; vLLM, converters and older
versions expect what the files of the model say. transformers knows the way back, a list of rules for each
architecture, and takes it in `save_pretrained`; here it is taken one tensor, or one stack, at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    apply_converters,
    rename_source_key,
    revert_weight_conversion,
)

from mediant.errors import ModelError
from mediant.models import architecture, stored
from mediant.models.lazy import LazyTensor
from mediant.values import Model

Tensors = Mapping[str, LazyTensor]


def as_in_files(
    tensors: Tensors, network: PreTrainedModel, keys: Collection[str] | None = None
) -> dict[str, LazyTensor]:
    """Returns the tensors of `network` under the names, and in the pieces, that its files have.

    Args:
        tensors: by their names in the network.
        network: without weights.
        keys: names in the files of the model that they come from, whose rules are taken back; None where these are not
            known: then as transformers writes a new model of this architecture.

    Raises:
        ModelError: transformers does not know the way back.
    """
    rules = _usual(network) if keys is None else _used(network, keys)
    network._weight_conversions = rules
    last = _Last()
    try:
        return {name: piece for group in _groups(tensors, rules) for name, piece in _pieces(group, network, last)}
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as problem:
        raise ModelError(
            f"transformers cannot take the tensors of {type(network).__name__} apart into those of its files: {problem}"
        ) from problem


def of_model(tensors: Tensors, model: Model) -> dict[str, LazyTensor]:
    """Returns the tensors of a model, which edits may have changed, as the files of the original would have them.

    Raises:
        ModelError: transformers does not know the way back.
    """
    network = architecture.empty_network(architecture.load_config(model.path))
    same = type(network).__name__ == model.unedited.architecture
    return as_in_files(tensors, network, stored.stored_tensors(model.unedited.path) if same else None)


def _usual(network: PreTrainedModel) -> list[Any]:
    """Returns the rules for a model that was not read from files, as `revert_weight_conversion` chooses them."""
    rules = get_model_conversion_mapping(network, add_legacy=False)
    return [rule for rule in rules if not isinstance(rule, PrefixChange)]


def _used(network: PreTrainedModel, keys: Collection[str]) -> list[Any]:
    """Returns the rules that loading files with these names uses."""
    rules = get_model_conversion_mapping(network)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    wanted = network.state_dict()
    for key in keys:
        rename_source_key(key, renamings, converters, network.base_model_prefix, wanted)
    return [rule for rule in rules if rule.was_used()]


def _groups(tensors: Tensors, rules: list[Any]) -> Iterator[dict[str, LazyTensor]]:
    """Tensors that make up the same tensors of the files."""
    converters = [rule for rule in (r.reverse_transform() for r in rules[::-1]) if isinstance(rule, WeightConverter)]
    groups: dict[tuple[str, bool], dict[str, LazyTensor]] = {}
    for name, tensor in tensors.items():
        target, pattern = apply_converters(name, converters)
        groups.setdefault((target, pattern is not None), {})[name] = tensor
    yield from groups.values()


def _pieces(group: Tensors, network: PreTrainedModel, last: _Last) -> Iterator[tuple[str, LazyTensor]]:
    shapes = {name: torch.empty(t.shape, dtype=t.dtype, device="meta") for name, t in group.items()}
    outline = _reverted(network, shapes)
    if len(group) == len(outline) == 1 and next(iter(outline.values())) is next(iter(shapes.values())):
        yield next(iter(outline)), next(iter(group.values()))
        return
    for name, piece in outline.items():
        yield name, LazyTensor(tuple(piece.shape), piece.dtype, partial(last.read, group, network, name))


def _reverted(network: PreTrainedModel, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if not network._weight_conversions:
        return dict(state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: dict[str, torch.Tensor] = revert_weight_conversion(network, dict(state))
    return found


@dataclass
class _Last:
    """The stack that was taken apart last: its pieces are asked for one after another."""

    group: Tensors | None = None
    pieces: Mapping[str, torch.Tensor] | None = None

    def read(self, group: Tensors, network: PreTrainedModel, name: str) -> torch.Tensor:
        if self.group is not group or self.pieces is None:
            self.group, self.pieces = None, None
            self.pieces = _reverted(network, {key: tensor.read() for key, tensor in group.items()})
            self.group = group
        # A copy: pieces of one stack share its memory, which safetensors refuses to write.
        return self.pieces[name].clone()
