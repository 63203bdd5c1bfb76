"""What calibration found, kept in the cache folder so that runs to other folders need not find it again.

An entry is a folder named by a hash of what it depends on: the model, the text, and the versions of Mediant and of the
libraries it computes with. It appears whole, by a rename, and is never changed. A run takes an entry by linking its
files into its own work folder (or copying them, across file systems), so it does not matter if another run removes the
entry in the meantime. The oldest entries go when all together are larger than `MEDIANT_CACHE_SIZE` bytes, 8 GB unless
set; with 0 nothing is kept.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mediant import files
from mediant.pipeline.workspace import versions


def take(key: Mapping[str, Any], folder: Path) -> bool:
    """Puts the files of the entry for `key` into `folder`; False, and nothing there, if there is none."""
    entry, taken = _entry(key), []
    if files.cache_limit() == 0 or not entry.is_dir():
        return False
    try:
        os.utime(entry)
        for file in sorted(entry.iterdir()):
            _link(file, folder / file.name)
            taken.append(folder / file.name)
    except OSError:
        # Another run has just removed it, or the disk is full, which the run itself will say.
        for file in taken:
            file.unlink(missing_ok=True)
        return False
    return True


def has(key: Mapping[str, Any]) -> bool:
    """Returns True if there is an entry for `key`."""
    return files.cache_limit() > 0 and _entry(key).is_dir()


def offer(key: Mapping[str, Any], folder: Path, names: Iterable[str]) -> None:
    """Keeps files of `folder` as the entry for `key`; where that fails, nothing is kept and nothing else happens."""
    entry = _entry(key)
    if files.cache_limit() == 0 or entry.exists():
        return
    # Not named by the process alone: threads share its number, and so may processes of two containers with one cache.
    staging = entry.with_name(f".{entry.name}.{uuid.uuid4().hex}.tmp")
    try:
        staging.mkdir(parents=True)
        for name in names:
            _link(folder / name, staging / name)
        staging.rename(entry)
    except OSError:
        # Of two runs that offer the same, the second finds the first's.
        pass
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    files.trim(entry.parent)


def _entry(key: Mapping[str, Any]) -> Path:
    name = files.sha256(json.dumps([versions(), key], sort_keys=True).encode())[:32]
    return files.cache_folder() / "statistics" / name


def _link(source: Path, target: Path) -> None:
    """Links the file under another name. Files here are written whole and never changed in place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
