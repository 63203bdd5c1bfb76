"""Hashes of large files, remembered as long as the file does not change."""

from __future__ import annotations

import json
from pathlib import Path

from mediant import files
from mediant.errors import StorageError


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal.

    It is kept in the cache folder with the file's size and time of change, and taken from there while
    both agree.
    """
    real = path.resolve()
    status = real.stat()
    state = [status.st_size, status.st_mtime_ns]
    memory = files.cache_folder() / "hashes" / f"{files.sha256(str(real).encode())}.json"
    try:
        known = json.loads(memory.read_text())
        if known["state"] == state:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digest = files.file_sha256(real)
    _remember(memory, {"state": state, "sha256": digest})
    return digest


def _remember(memory: Path, entry: dict[str, object]) -> None:
    """Keeps an entry; a cache folder that cannot be written only costs time."""
    try:
        files.write(memory, json.dumps(entry).encode())
    except StorageError:
        return
