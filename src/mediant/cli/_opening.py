"""What commands take: a compressed model or a plain one, in a folder or on the hub."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mediant import files

if TYPE_CHECKING:
    from mediant.checkpoint.reader import Checkpoint
    from mediant.progress import Progress
    from mediant.values import Model


@dataclass(frozen=True)
class Opened:
    """A model that has not been loaded yet: its folder, the bytes of all its files, its weights, tied ones once.

    `checkpoint` is there if it is a compressed one.
    """

    folder: Path
    bytes: int
    weights: int
    causal: bool
    load: Callable[[], Any]
    checkpoint: Checkpoint | None = None


def opened(spec: str, progress: Progress) -> Opened:
    """Returns the compressed or plain model that `spec` names: a folder, a file, an id on the hub.

    Raises:
        CheckpointError: the compressed model is damaged.
        ModelError: there is no such model.
    """
    from mediant.models.folder import CHECKPOINT

    if (Path(spec) / CHECKPOINT).is_file():
        return _checkpoint(Path(spec))
    # These import torch and transformers, which a checkpoint may not need.
    from mediant.models.opening import open_model
    from mediant.models.reference import load_reference
    from mediant.models.source import locate

    folder = locate(spec, progress)
    if (folder / CHECKPOINT).is_file():
        return _checkpoint(folder)
    model = open_model(str(folder), progress)
    return Opened(model.path, _bytes(model), model.weights, model.causal, lambda: load_reference(model))


def plain(spec: str, progress: Progress) -> Model:
    """Returns the plain model that `spec` names; a compressed one is written out in full first, once, into the cache
    folder.

    Raises:
        CheckpointError, ModelError: as for `opened`.
        StorageError: it cannot be written there.
    """
    from mediant.checkpoint.manifest import MANIFEST_FILE
    from mediant.exporters.huggingface import export
    from mediant.models.opening import open_model
    from mediant.models.source import locate, model_name

    folder = locate(spec, progress)
    if not (folder / MANIFEST_FILE).is_file():
        return open_model(str(folder), progress)
    target = files.cache_folder() / "plain" / files.file_sha256(folder / MANIFEST_FILE)[:32]
    if not target.exists():
        progress.say(f"writing {spec} out in full, once; this is kept in {target}")
        export(str(folder), target, progress=progress)
        files.trim(target.parent, needed=target)
    return dataclasses.replace(open_model(str(target), progress), name=model_name(folder))


def existing(folder: Path) -> Path:
    """Returns the folder of a compressed model that is given as such, or by its id on the hub.

    Raises:
        ModelError: there is neither.
    """
    from mediant.models.source import locate

    return folder if folder.exists() or folder.is_absolute() else locate(str(folder))


def _checkpoint(folder: Path) -> Opened:
    from mediant.checkpoint.reader import open_checkpoint
    from mediant.models.adapter_files import refuse_beside

    def load() -> Any:
        from mediant.runtime.loading import load

        return load(folder)

    checkpoint = open_checkpoint(folder)
    refuse_beside(folder)
    origin = checkpoint.model
    return Opened(folder, files.folder_bytes(folder), origin.weights, origin.causal, load, checkpoint)


def _bytes(model: Model) -> int:
    """Returns the bytes of the file or folder that the model was made from, or else of its own folder."""
    from mediant.models.folder import ORIGIN

    # Not there, or a file of the user's with that name, or the source has gone.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        source = Path(files.read_json(model.path / ORIGIN)["file"])
        return files.folder_bytes(source) if source.is_dir() else source.stat().st_size
    return files.folder_bytes(model.path)
