"""A folder beside the output in which every finished step of a run is kept until the run is done.

A step is written whole or not at all, so a run that was killed at any moment goes on with the first step that is
missing and ends with the same bytes as an undisturbed one. Steps of another version of Mediant, or of the libraries it
computes with, are not taken up: half of a result would be of either.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mediant import files
from mediant.errors import StorageError


@dataclass(frozen=True)
class Workspace:
    """Finished steps of one run, as files in `folder`."""

    folder: Path

    @classmethod
    def open(cls, output: Path, key: Mapping[str, Any], resume: bool) -> Workspace:
        """Returns the workspace of the run that makes `output` with the options in `key`; emptied if those differ.

        Raises:
            StorageError: the folder cannot be written.
        """
        folder = output.with_name(f".{output.name}.mediant-work")
        stamp = files.sha256(json.dumps([versions(), key], sort_keys=True).encode()).encode()
        known = folder / "run"
        if not (resume and known.is_file() and known.read_bytes() == stamp):
            shutil.rmtree(folder, ignore_errors=True)
            try:
                files.write(known, stamp)
            except StorageError:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        return cls(folder)

    def step(self, name: str, compute: Callable[[], bytes]) -> bytes:
        """Returns the bytes of a step, computed and kept if it is not finished yet."""
        if not self.has(name):
            self.write(name, compute())
        return self.read(name)

    def has(self, name: str) -> bool:
        """Returns True if a step is finished."""
        return (self.folder / name).exists()

    def read(self, name: str) -> bytes:
        """Returns the bytes of a finished step."""
        return (self.folder / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Keeps the bytes of a step that has just been finished."""
        files.write(self.folder / name, data)

    def branch(self, key: str) -> Workspace:
        """Returns the part of the workspace for steps that depend on `key` too."""
        return Workspace(self.folder / files.sha256(key.encode())[:16])

    def close(self) -> None:
        """Removes the folder: the run is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


@cache
def versions() -> list[str]:
    """Identifies the code behind results: the hash of Mediant's own source, and the versions of libraries."""
    root = Path(files.__file__).parent
    source = b"".join(file.read_bytes() for file in sorted(root.rglob("*.py")))
    return [files.sha256(source), *(version(name) for name in ("numpy", "torch", "transformers"))]
