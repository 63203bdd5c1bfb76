"""The right to write one output, held by one run at a time.

A lock beside the output says who holds it. It is the operating system's own, so a run that was killed holds nothing.
The file goes with the lock: the holder removes it before letting go, and filelock takes no lock on a removed file.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mediant.errors import StorageError
from mediant.files import storage_errors
from mediant.progress import SILENT, Progress

if TYPE_CHECKING:
    from filelock import BaseFileLock

POLL_SECONDS = 0.1
# How often a folder that others remove is made again.
ATTEMPTS = 100
# What file systems without locks answer.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def claimed(target: Path, progress: Progress = SILENT, wait: bool = True, needed: int = 0) -> Iterator[None]:
    """Keeps other runs from writing `target`; a run that comes second waits, or is refused without `wait`.

    Whether anything can be written beside `target` is found out here. Folders that have to be made for the lock, and
    are empty in the end, go again.

    Args:
        target: the file or folder that is to be written.
        progress: is told whom it waits for.
        wait: for the other run's end.
        needed: bytes that the disk must have free.

    Raises:
        StorageError: nothing can be written there, the disk is too full, or another run has the claim.
    """
    # Not Path.resolve, which raises RuntimeError for links in a circle.
    place = Path(os.path.realpath(target))
    made = [folder for folder in place.parents if not os.path.lexists(folder)]
    try:
        with storage_errors(target):
            _make(place.parent)
            check_space(place.parent, needed)
        lock = _acquired(place, progress, wait)
        try:
            yield
        finally:
            if lock is not None:
                _release(lock)
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _make(folder: Path) -> None:
    """Makes a folder where there is none, also while other runs remove it or its parents when they end."""
    for _ in range(ATTEMPTS):
        try:
            return folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, FileNotFoundError):
            # mkdir saw it, and it was gone when mkdir looked whether it is a folder; or a parent went in between.
            if os.path.lexists(folder) and not folder.is_dir():
                raise
    return folder.mkdir(parents=True, exist_ok=True)


def check_space(folder: Path, needed: int) -> None:
    """Refuses to begin what the disk of an existing folder has no room for.

    Raises:
        StorageError: fewer than `needed` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"There is too little space for {folder}: this needs about {needed / 1e6:.0f} MB there, and "
            f"{free / 1e6:.0f} MB are free."
        )


def _acquired(place: Path, progress: Progress, wait: bool) -> BaseFileLock | None:
    """Returns the lock beside a place; none on a file system that has no locks."""
    from filelock import FileLock

    file = place.with_name(f".{place.name}.mediant-lock")
    lock = FileLock(file, fallback_to_soft=False)
    try:
        with storage_errors(place):
            _wait_for(lock, place, progress, wait)
            file.write_text(_myself(), encoding="utf-8")
    except NotImplementedError:
        _say_unlocked(file, place, progress)
        return None
    except StorageError as problem:
        if lock.is_locked:
            _release(lock)
        if isinstance(cause := problem.__cause__, OSError) and cause.errno in NO_LOCKS:
            _say_unlocked(file, place, progress)
            return None
        raise
    return lock


def _wait_for(lock: BaseFileLock, place: Path, progress: Progress, wait: bool) -> None:
    from filelock import Timeout

    holder = None
    while True:
        try:
            lock.acquire(timeout=POLL_SECONDS if holder else 0, poll_interval=POLL_SECONDS)
            return
        except FileNotFoundError:
            # The run that made the folder has just removed it.
            place.parent.mkdir(parents=True, exist_ok=True)
        except Timeout:
            if holder is None:
                holder = _holder(Path(lock.lock_file))
                if not wait:
                    raise StorageError(f"{holder} is writing {place}; without --no-wait this waits for it.") from None
                progress.say(f"Waiting for {holder}, which is writing {place}.")


def _say_unlocked(file: Path, place: Path, progress: Progress) -> None:
    file.unlink(missing_ok=True)
    progress.say(f"The file system of {place} has no locks; see to it that no other run writes there.")


def _release(lock: BaseFileLock) -> None:
    with contextlib.suppress(OSError):
        Path(lock.lock_file).unlink()
    lock.release()


def _myself() -> str:
    """Describes this process as the holder of a claim, as JSON."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "command": command, "since": since})


def _holder(file: Path) -> str:
    """Returns a description of who holds a claim."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return f"Process {found['pid']} on {found['host']} ({found['command']}, since {found['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        # The holder has the lock and has not yet written its name.
        return "Another run"
