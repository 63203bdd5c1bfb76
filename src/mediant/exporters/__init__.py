"""Exporters: forms of a model that other programs load.

A format is one file here, or one folder, and its name is the format's name. It defines `TYPES` (the types of weights,
each wider than those before it can hold more), `USUAL` (the one taken when none is asked for), `HELP` (what it is, for
`mediant export --help`) and `export`. It imports torch and transformers only inside `export`, so that help is quick.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Protocol, cast

from mediant.errors import UsageError
from mediant.progress import Progress


class Exporter(Protocol):
    """A module that writes one format."""

    TYPES: tuple[str, ...]
    USUAL: str
    HELP: str

    def export(self, spec: str, out: Path, kind: str, progress: Progress, check: bool) -> None:
        """Writes the model `spec` to `out` with weights of the type `kind`, whole or not at all.

        With `check`, what was written is read back and compared with the model before it takes its place.

        Raises:
            MediantError: one sentence about what cannot be written, or came out wrong.
        """


def formats() -> tuple[str, ...]:
    """Returns the names of all formats, in alphabetical order."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def exporter(format: str) -> Exporter:
    """Returns the exporter of a format.

    Raises:
        UsageError: there is no such format.
    """
    if format not in formats():
        raise UsageError(f"There is no format {format!r}; there are: {', '.join(formats())}.")
    return cast(Exporter, importlib.import_module(f"{__name__}.{format}"))


def check_type(format: str, kind: str) -> None:
    """Refuses a type that a format does not have.

    Raises:
        UsageError: naming those that it has.
    """
    types = exporter(format).TYPES
    if kind not in types:
        raise UsageError(f"The type {kind!r} is none of {', '.join(types)}.")
