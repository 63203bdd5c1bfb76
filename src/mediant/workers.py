"""Ordered work on several threads whose result does not depend on how many there are."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from itertools import islice
from typing import TypeVar

from mediant.errors import UsageError

T = TypeVar("T")
R = TypeVar("R")

# Items per thread that may wait for their turn: where they are large, and where they are small.
FEW, AHEAD = 2, 64


def threads() -> int:
    """Threads to use: `MEDIANT_THREADS`, else the processors this process may run on."""
    wanted = os.environ.get("MEDIANT_THREADS", "")
    if wanted:
        if not wanted.isdigit() or int(wanted) < 1:
            raise UsageError(f"MEDIANT_THREADS is {wanted!r}; it takes a whole number from 1.")
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def return_memory() -> None:
    """Gives freed memory back to the system; C libraries other than glibc do it by themselves or not at all."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def compute_alone() -> None:
    """Makes PyTorch use one thread in the thread that calls this, so that results do not depend on how many work."""
    import torch

    torch.set_num_threads(1)


class Turns:
    """Something that one thread at a time may have, in the order of their numbers 0, 1, 2, ..."""

    def __init__(self) -> None:
        self._next = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, number: int) -> Iterator[None]:
        """Waits until all smaller numbers have had their turn, successful or not."""
        with self._changed:
            self._changed.wait_for(lambda: self._next == number)
        try:
            yield
        finally:
            with self._changed:
                self._next += 1
                self._changed.notify_all()


def ordered(
    work: Callable[[T], R], items: Iterable[T], prepare: Callable[[], None] | None = None, ahead: int = FEW
) -> Iterator[R]:
    """Yields `work(item)` in the order of the items, computed by `threads()` threads.

    `prepare` runs once in every worker thread; with PyTorch it sets that thread to compute alone, so that an item's
    result is the same however many workers there are. The work sees the context variables of the caller. At most
    `ahead` items per thread wait, which bounds memory; where items and results are small, more of them keep all threads
    busy beside an item that takes long.
    """
    count = threads()
    iterator = iter(items)
    with ThreadPoolExecutor(count, initializer=prepare) as pool:
        first = islice(iterator, ahead * count)
        waiting: list[Future[R]] = [pool.submit(copy_context().run, work, item) for item in first]
        try:
            while waiting:
                result = waiting.pop(0).result()
                waiting += [pool.submit(copy_context().run, work, item) for item in islice(iterator, 1)]
                yield result
        finally:
            for future in waiting:
                future.cancel()
