"""Models that were made from others, kept in the cache folder under the hash of what they were made from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mediant import files
from mediant.models.file_hashes import file_hash
from mediant.models.folder import ORIGIN

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".gguf", ".onnx", ".msgpack")
NOT_COPIED = ("config.json", "model.safetensors.index.json", "adapter_config.json", ORIGIN)


def place(name: str, sources: Iterable[Path], made: Mapping[str, Any]) -> Path:
    """Returns the folder in the cache of a model made in the way `made` from the content of these files, wherever they
    lie.
    """
    content = {"made": made, "files": [[file.name, file_hash(file)] for file in sources]}
    digest = files.sha256(json.dumps(content, sort_keys=True).encode())
    return files.cache_folder() / "models" / f"{name}-{digest[:16]}"


def origin(name: str, source: Path, **more: str) -> bytes:
    """Returns the content of `mediant-source.json`: what the model is called and where it came from."""
    return (json.dumps({"name": name, "file": str(source.resolve()), **more}, indent=1) + "\n").encode()


def sidecar_files(folder: Path) -> dict[str, bytes | Path]:
    """Returns the files of a model that are neither weights nor configuration nor of an adapter, by path in the
    folder.
    """
    found = sorted(f for f in folder.rglob("*") if f.is_file())
    names = {str(f.relative_to(folder)): f for f in found if f.suffix.lower() not in WEIGHTS}
    return {name: f for name, f in names.items() if name not in NOT_COPIED and not _hidden(name)}


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)
