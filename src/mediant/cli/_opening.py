"""What `evaluate` and `generate` take: a compressed model or a plain one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mediant import files

if TYPE_CHECKING:
    from mediant.progress import Progress
    from mediant.values import Model


@dataclass(frozen=True)
class Opened:
    """A model that has not been loaded yet: its folder, the bytes of all its files, its weights, tied ones once."""

    folder: Path
    bytes: int
    weights: int
    causal: bool
    load: Callable[[], Any]


def opened(spec: str, progress: Progress) -> Opened:
    """The compressed model in the folder `spec`, else the plain model of that name.

    Raises:
        CheckpointError: the compressed model is damaged.
        ModelError: there is no such model.
    """
    from mediant.checkpoint.manifest import MANIFEST_FILE
    from mediant.models.opening import open_model
    from mediant.models.reference import load_reference

    folder = Path(spec)
    if (folder / MANIFEST_FILE).is_file():
        return _checkpoint(folder)
    model = open_model(spec, progress)
    return Opened(model.path, _bytes(model), model.weights, model.causal, lambda: load_reference(model))


def _checkpoint(folder: Path) -> Opened:
    from mediant.checkpoint.reader import open_checkpoint
    from mediant.runtime.loading import load

    origin = open_checkpoint(folder).manifest.model
    return Opened(folder, files.folder_bytes(folder), origin.weights, origin.causal, lambda: load(folder))


def _bytes(model: Model) -> int:
    """Bytes of the file or folder that the model was made from, or else of its own folder."""
    from mediant.models.folder import ORIGIN

    origin = model.path / ORIGIN
    if origin.is_file():
        source = Path(json.loads(origin.read_text(encoding="utf-8"))["file"])
        if source.exists():
            return source.stat().st_size if source.is_file() else files.folder_bytes(source)
    return files.folder_bytes(model.path)
