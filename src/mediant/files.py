"""Files that are whole or not there: written under a temporary name, synced, renamed. Hashes. The cache folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from mediant.errors import StorageError


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals while writing to `path` into one sentence."""
    try:
        yield
    except OSError as problem:
        reasons = {
            errno.ENOSPC: "there is no space left on the disk",
            errno.EDQUOT: "the disk quota is used up",
            errno.EACCES: "permission is denied",
            errno.EROFS: "the file system is read-only",
            errno.ENOTDIR: "part of the path is a file",
        }
        reason = reasons.get(problem.errno or 0, str(problem))
        raise StorageError(f"Cannot write {path}: {reason}; nothing that was there before has changed.") from problem


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, data: bytes) -> None:
    """Writes a whole file or none.

    Raises:
        StorageError: the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def sha256(data: bytes | memoryview) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder: what it takes to send it."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def cache_folder() -> Path:
    """Where converted models and sampled texts are kept: `MEDIANT_CACHE`, else the user's cache folder."""
    base = (
        os.environ.get("MEDIANT_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mediant"
    )
    return Path(base)
