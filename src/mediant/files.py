"""Files that are whole or not there: written under a temporary name, synced, renamed. Hashes. The cache folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mediant.errors import StorageError, UsageError

USUAL_CACHE = 8 * 10**9
# What the operating system's refusals to write mean.
REFUSALS = {
    errno.ENOSPC: "there is no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "part of the path is a file",
    errno.EISDIR: "it is a folder",
    errno.ELOOP: "links lead in a circle",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EFBIG: "a file may not be so large here",
}


def reason(problem: Exception) -> str:
    """Says why a file could not be used, without what only programmers understand: numbers, classes, attributes.

    >>> reason(IsADirectoryError(errno.EISDIR, "Is a directory", "text")), reason(AttributeError("no 'pop'"))
    ('it is a folder', 'a value in it is missing or of the wrong kind')
    >>> reason(ValueError("the field 'x': TypeError: not a number"))
    "the field 'x': not a number"
    """
    if isinstance(problem, OSError) and problem.errno is not None:
        return REFUSALS.get(problem.errno, problem.strerror or str(problem))
    if type(problem) in (AttributeError, TypeError, KeyError, IndexError):
        return "a value in it is missing or of the wrong kind"
    return re.sub(r"\b[A-Z]\w*Error: ", "", " ".join(str(problem).split())).replace("NoneType", "null")


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals while writing to `path` into one sentence."""
    try:
        yield
    except OSError as problem:
        cached = path.is_relative_to(cache_folder())
        advice = "set MEDIANT_CACHE to a folder with room" if cached else "nothing that was there before has changed"
        raise StorageError(f"Cannot write {path}: {reason(problem)}; {advice}.") from problem


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


def check_writable(path: Path) -> None:
    """Finds out whether the file `path` could be written, by writing a nameless one where it would lie.

    Raises:
        StorageError: it could not.
    """
    with storage_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
        folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"mediant")
            probe.flush()


def keep(path: Path, data: bytes) -> bool:
    """Writes a file that only saves time, such as one of the cache; False where that fails, which changes nothing."""
    try:
        write(path, data)
    except StorageError:
        return False
    return True


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8 or not JSON, or is nested too deeply.
    """
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Returns the value of a JSON text, with `pairs` for what becomes of objects.

    Raises:
        ValueError: not JSON, or nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def sha256(data: bytes | memoryview) -> str:
    """Returns the SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_bytes(folder: Path) -> int:
    """Returns the bytes of all files below a folder: what it takes to send it."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def cache_folder() -> Path:
    """Folder of converted models and sampled texts: `MEDIANT_CACHE`, else the user's cache folder."""
    if own := os.environ.get("MEDIANT_CACHE"):
        return Path(own)
    # Not Path.home, which raises for a user without one, as in some containers.
    home = Path(os.path.expanduser("~").replace("~", "/"))
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "mediant"


def cache_limit() -> int:
    """Returns the most bytes that each kind of entry takes in the cache folder: `MEDIANT_CACHE_SIZE`, or 8 GB.

    Raises:
        UsageError: `MEDIANT_CACHE_SIZE` is not a number of bytes.
    """
    text = os.environ.get("MEDIANT_CACHE_SIZE", "")
    if text and not text.isdigit():
        raise UsageError(f"MEDIANT_CACHE_SIZE is {text!r}; it takes a number of bytes, such as {USUAL_CACHE}.")
    return int(text) if text else USUAL_CACHE


def trim(folder: Path, needed: Path | None = None) -> None:
    """Removes the entries of a cache used longest ago until the rest is small enough, but not the one that is needed.

    An entry is used when its time is set (`os.utime`), and renamed before it goes. Files that a process has mapped stay
    readable to it.
    """
    with contextlib.suppress(OSError):
        entries = sorted((e for e in folder.iterdir() if not e.name.startswith(".")), key=lambda e: -e.stat().st_mtime)
        kept = 0
        for entry in entries:
            size = folder_bytes(entry)
            if entry == needed or kept + size <= cache_limit():
                kept += size
                continue
            doomed = entry.with_name(f".{entry.name}.{os.getpid()}.gone")
            entry.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
