"""Writes an ordinary Hugging Face folder, weights tensor by tensor: what any program that knows the model can load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from mediant import files
from mediant.claims import check_space
from mediant.errors import StorageError
from mediant.files import storage_errors
from mediant.models.folder import INDEX, SINGLE
from mediant.models.lazy import LazyTensor
from mediant.progress import SILENT, Progress
from mediant.staging import staged

# Of one file of weights, unless a single tensor has more: what has to be in memory at once.
SHARD_BYTES = 512 << 20


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, LazyTensor],
    beside: Mapping[str, bytes | Path],
    progress: Progress = SILENT,
    shard_bytes: int = SHARD_BYTES,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Writes the folder whole or not at all; the same arguments give the same bytes.

    Args:
        folder: where; what is there is replaced.
        config: what `config.json` says.
        tensors: by their names in the file, tied ones once; without any there is no file of weights.
        beside: content, or file to copy, by the path in the folder of every other file.
        progress: is told of every file of weights.
        shard_bytes: of one file of weights.
        check: is given the whole folder before it takes its place; what it raises leaves nothing behind.

    Raises:
        StorageError: the disk refuses; nothing has changed then.
    """
    shards = list(_shards(tensors, shard_bytes))
    names = [SINGLE] if len(shards) == 1 else [_shard_name(i, len(shards)) for i in range(len(shards))]
    with staged(folder) as staging, storage_errors(folder):
        check_space(staging, sum(tensor.nbytes for tensor in tensors.values()))
        for name, shard in progress.track(zip(names, shards, strict=True), "Writing weights", len(shards)):
            _save(staging / name, shard)
        if len(shards) > 1:
            index = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
            total = {"total_size": sum(t.nbytes for t in tensors.values())}
            _write(staging / INDEX, _json({"metadata": total, "weight_map": index}))
        _write(staging / "config.json", _json(dict(config)))
        for name, content in beside.items():
            _write(staging / name, content)
        files.sync(staging)
        if check is not None:
            check(staging)


def check_free(folder: Path) -> None:
    """Refuses to write where anything is.

    Raises:
        StorageError: naming it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(f"{folder} exists already and is not an empty folder; name a new one.")


def _shards(tensors: Mapping[str, LazyTensor], most: int) -> Iterator[dict[str, LazyTensor]]:
    shard: dict[str, LazyTensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.nbytes > most:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    if shard:
        yield shard


def _shard_name(at: int, count: int) -> str:
    return f"model-{at + 1:05}-of-{count:05}.safetensors"


def _save(file: Path, shard: Mapping[str, LazyTensor]) -> None:
    values = {name: tensor.read().contiguous() for name, tensor in shard.items()}
    for name, tensor in shard.items():
        if (tuple(values[name].shape), values[name].dtype) != (tensor.shape, tensor.dtype):
            raise ValueError(f"the tensor {name!r} is {values[name].shape}, not {tensor.shape}, or of another type")
    try:
        save_file(values, file, {"format": "pt"})
    except SafetensorError as problem:
        raise StorageError(f"Cannot write {file.parent}: {problem}.") from problem
    files.sync(file)


def _write(file: Path, content: bytes | Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        shutil.copyfile(content, file)
    else:
        file.write_bytes(content)
    files.sync(file)


def _json(data: object) -> bytes:
    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()
