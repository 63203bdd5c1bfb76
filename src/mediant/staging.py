"""A folder that appears whole under its name, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mediant import files
from mediant.files import storage_errors


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, to be filled, that takes its place at the end; after any exception it is gone.

    Raises:
        StorageError: the disk refuses.
    """
    staging = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with storage_errors(folder):
        _remove_abandoned(folder)
        staging.mkdir(parents=True)
    try:
        yield staging
        with storage_errors(folder):
            _swap(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _swap(staging: Path, folder: Path) -> None:
    """Puts `staging` in the place of `folder`; after any exception both are where they were."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        if folder.exists():
            folder.rename(aside)
        staging.rename(folder)
        files.sync(folder.parent)
    except BaseException:
        if not staging.exists():
            folder.rename(staging)
        if aside.exists():
            aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Removes what processes that were killed while writing to `folder` left beside it.

    What one of them had put aside is kept if nothing has taken its place.
    """
    for entry in folder.parent.iterdir() if folder.parent.exists() else ():
        name, _, process = entry.stem.rpartition(".")
        abandoned = entry.suffix == ".tmp" or (entry.suffix == ".old" and folder.exists())
        if abandoned and name == f".{folder.name}" and process.isdecimal() and not _alive(int(process)):
            shutil.rmtree(entry, ignore_errors=True)


def _alive(process: int) -> bool:
    """Returns True if a process other than this one, which has just begun to write, is running."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
