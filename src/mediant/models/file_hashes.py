"""Hashes of large files, remembered as long as there is no sign that the bytes have changed.

Size and time of change alone do not tell two files apart: copying with the times kept, unpacking an image whose
times are all zero, or moving another file over this one leave both as they were. The state of a file is therefore

- its size, and the time of its last write;
- its device and inode, which another file moved to this place does not have;
- the time at which the file system last changed the inode (ctime), which no program can set;
- a hash of pages spread over the file, for file systems that invent inodes and times (network shares, FAT), and for
  writes through a memory map, whose time may come late.

What can still hide: a write through a memory map, or on a file system without reliable times, that misses every
sampled page.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from mediant import files

PAGE, PAGES = 4096, 64

SETTLED_NS = 2 * 10**9
"""A file changed so shortly before it was hashed may change again within one tick of its clock, FAT's being the
longest with two seconds; its hash is not remembered."""

State = list[int | str]


def file_hash(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal, computed anew unless it is remembered for the file's
    present state.
    """
    real = path.resolve()
    state = file_state(real)
    memory = files.cache_folder() / "hashes" / f"{files.sha256(str(real).encode())}.json"
    try:
        known = json.loads(memory.read_text())
        if known["state"] == state:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    began = time.time_ns()
    digest = files.file_sha256(real)
    if _settled(real, began) and file_state(real) == state:
        files.keep(memory, json.dumps({"state": state, "sha256": digest}).encode())
    return digest


def file_state(path: Path) -> State:
    """Reads what changes with a file's bytes: status and a hash of `PAGES` pages of `PAGE` bytes, evenly spread."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        last = max(status.st_size - PAGE, 0)
        sample = hashlib.sha256()
        for start in sorted({last * n // (PAGES - 1) for n in range(PAGES)}):
            file.seek(start)
            sample.update(file.read(PAGE))
    times = [status.st_mtime_ns, status.st_ctime_ns]
    return [status.st_size, *times, status.st_dev, status.st_ino, sample.hexdigest()]


def _settled(path: Path, now: int) -> bool:
    """Says whether the last change is long enough ago for the clock of the file system to show the next one."""
    status = path.stat()
    return max(status.st_mtime_ns, status.st_ctime_ns) + SETTLED_NS < now
