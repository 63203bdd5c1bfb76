"""Opens a model: what it is called, what tensors it has and what each is for, without reading its weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from mediant.errors import ModelError
from mediant.models import abilities, architecture, folder, names, remote_code, roles, source, stored
from mediant.models.file_hashes import file_hash
from mediant.models.names import Names
from mediant.models.stored import StoredTensor
from mediant.models.unread import unread
from mediant.progress import SILENT, Progress
from mediant.values import Model, TensorInfo

NOT_CONTENT = ("_name_or_path", "transformers_version")


def open_model(spec: str, progress: Progress = SILENT) -> Model:
    """Returns the model that `spec` names (see `source.resolve`), described and fingerprinted.

    Raises:
        ModelError: it cannot be found or understood, or its files lack a tensor of the network or hold it
            in another shape.
    """
    path = source.resolve(spec, progress)
    config = architecture.load_config(path)
    network = architecture.empty_network(config)
    able = abilities.check(network, path)
    entries = stored.stored_tensors(path)
    known = names.match(network, entries, roles.ties(network))
    tensors = _tensors(path, network, entries, known)
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    for kind in unread(known.unused, layers, f"{type(network).__name__}, the network of {path},"):
        progress.say(str(kind))
    raw = folder.read_config(path)
    return Model(
        path=path,
        name=source.model_name(path),
        architecture=type(network).__name__,
        config=raw,
        tensors=tensors,
        fingerprint=fingerprint(raw, tensors, _deciding(path, raw), progress),
        causal=able.writes,
        position_offset=abilities.position_offset(network),
    )


def fingerprint(
    config: Mapping[str, Any],
    tensors: Sequence[TensorInfo],
    files: Sequence[Path],
    progress: Progress = SILENT,
) -> str:
    """SHA-256, in hexadecimal, of all that decides what the model computes; where it lies does not matter."""
    content = {
        "config": {k: v for k, v in config.items() if k not in NOT_CONTENT},
        "tensors": [[t.name, list(t.shape), t.dtype] for t in tensors],
        "files": [file_hash(file) for file in progress.track(files, "hashing the weights")],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _deciding(path: Path, config: Mapping[str, Any]) -> list[Path]:
    """Returns the files that decide what a model computes: its weights, and the code that comes with it where that is
    run.
    """
    own = architecture.runs_own_code(config, path)
    return [*folder.weight_files(path), *(remote_code.python_files(path) if own else ())]


def _tensors(
    path: Path, network: PreTrainedModel, entries: Mapping[str, StoredTensor], known: Names
) -> tuple[TensorInfo, ...]:
    """Returns one entry for each tensor of the network that its files give, tied ones once."""
    if known.missing:
        raise ModelError(
            f"The weights in {path} lack tensors of {type(network).__name__}, {len(known.missing)} in all,"
            f" such as {known.missing[0]}."
        )
    infos = roles.describe(network)
    built_from = {entries[key].dtype for key in known.sources}
    found = []
    for group in _groups(roles.ties(network), entries, known):
        given = next((name for name in group if name in known.direct), None)
        if given is not None:
            entry = entries[known.direct[given]]
            _check_shape(path, infos[group[0]], entry)
            dtype = entry.dtype
        elif group[0] in known.built:
            dtype = built_from.copy().pop() if len(built_from) == 1 else "float32"
        else:
            continue
        found.append(dataclasses.replace(infos[group[0]], dtype=dtype, aliases=group[1:]))
    return tuple(found)


def _groups(
    tied: Sequence[tuple[str, ...]], entries: Mapping[str, StoredTensor], known: Names
) -> list[tuple[str, ...]]:
    """Returns the tied names, but apart where the files hold different content: there transformers does not tie."""
    groups: list[tuple[str, ...]] = []
    for group in tied:
        given = [entries[known.direct[name]] for name in group if name in known.direct]
        groups += [group] if _equal(given) else [(name,) for name in group]
    return groups


def _equal(entries: Sequence[StoredTensor]) -> bool:
    """Returns True if all entries hold the same numbers."""
    if len(entries) < 2:
        return True
    values = []
    for entry in entries:
        with stored.opened(entry.file) as tensors:
            values.append(tensors.get_tensor(entry.name))
    return all(values[0].equal(value) for value in values[1:])


def _check_shape(path: Path, info: TensorInfo, entry: StoredTensor) -> None:
    if entry.shape != info.shape:
        raise ModelError(
            f"The tensor {info.name!r} of {path} has the shape {entry.shape} in {entry.file.name}, but"
            f" {info.shape} by the config.json."
        )


def positions(model: Model) -> int | None:
    """Returns the longest sequence the model was made for; None where its configuration does not say."""
    names = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "max_target_positions")
    config = text_config(model)
    count = next((int(config[name]) for name in names if config.get(name)), None)
    return None if count is None else count - model.position_offset


def text_config(model: Model) -> dict[str, Any]:
    """Returns the configuration, with that of the text part of a larger model over the rest."""
    text = model.config.get("text_config")
    return {**model.config, **(text if isinstance(text, dict) else {})}
