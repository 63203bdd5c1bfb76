"""Progress that a library function reports without knowing who looks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")
# What is being done, or a function that says it anew for every item.
What = str | Callable[[], str]


class Progress(Protocol):
    """Somebody who wants to know how far the work is."""

    def track(self, items: Iterable[T], what: What, total: int | None = None) -> Iterator[T]:
        """Yields the items while showing `what` and how many of `total` are done."""

    def say(self, text: str) -> None:
        """Shows one line about what was found or decided."""


class Silent:
    """Nobody looks."""

    def track(self, items: Iterable[T], what: What, total: int | None = None) -> Iterator[T]:
        """Yields the items."""
        yield from items

    def say(self, text: str) -> None:
        """Drops the line."""


SILENT: Progress = Silent()
