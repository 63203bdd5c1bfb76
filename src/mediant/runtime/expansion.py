"""Entropy-coded checkpoints for the native decoder: expanded once, into the cache, and mapped from there ever after.

Decoding the stream takes far longer than a reader waits. In the rows that matter most, its whole numbers need up to 12
bits, so they do not fit the 8 bits of tiles; weights become float16, whose rounding, at most 2^-11 of a weight, is
small beside what the steps of the numbers have cost (docs/log.md, 2026-11-28).

An expansion is a checkpoint of its own: every hash is checked on the way, it appears whole or not at all
(`checkpoint.writer`), and its name has the SHA-256 of the manifest, which has those of all parts. Those used longest
ago go when all together are larger than `MEDIANT_CACHE_SIZE` bytes, 8 GB unless set.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mediant import files
from mediant.checkpoint.manifest import MANIFEST_FILE
from mediant.checkpoint.reader import Checkpoint, open_checkpoint
from mediant.checkpoint.writer import write
from mediant.claims import claimed
from mediant.errors import CheckpointError, StorageError
from mediant.forms import Encoding, keep, kept
from mediant.models.folder import read_config
from mediant.progress import SILENT, Progress
from mediant.values import Model

# Part of the name: raise it when the same file would give another expansion.
FORMAT = 1
DTYPE = "float16"
EXPANDED = kept(DTYPE)


def expanded(checkpoint: Checkpoint, progress: Progress = SILENT) -> Checkpoint:
    """Returns the checkpoint itself, or its expansion where it is entropy-coded; made now if it is not in the cache.

    Where the cache cannot be written, the checkpoint as it is, after a word to `progress`.

    Raises:
        CheckpointError: it is damaged.
    """
    folder = checkpoint.folder
    if not any(entry.plan.slow for entry in checkpoint.tensors.values()):
        return checkpoint
    target = files.cache_folder() / "expanded" / f"{files.file_sha256(folder / MANIFEST_FILE)[:32]}-{FORMAT}"
    if (kept := _kept(target)) is not None:
        return kept
    try:
        with claimed(target, progress):
            if (kept := _kept(target)) is not None:
                return kept
            progress.say(f"expanding {folder} once for the native decoder; this is kept in {target}")
            _expand(checkpoint, target, progress)
    except StorageError as problem:
        progress.say(f"{problem} The model is expanded again at every start.")
        return checkpoint
    files.trim(target.parent, needed=target)
    return open_checkpoint(target)


def _kept(target: Path) -> Checkpoint | None:
    """Returns the expansion of an earlier run. One that does not open any more is removed: nobody but this module
    writes it.
    """
    if not target.exists():
        return None
    try:
        kept = open_checkpoint(target)
        with contextlib.suppress(OSError):
            os.utime(target)
        return kept
    except CheckpointError:
        shutil.rmtree(target, ignore_errors=True)
        return None


def _expand(checkpoint: Checkpoint, target: Path, progress: Progress) -> None:
    origin, entries = checkpoint.model, checkpoint.tensors
    model = Model(
        path=checkpoint.folder,
        name=origin.name,
        architecture=origin.architecture,
        config=read_config(checkpoint.folder),
        tensors=tuple(entry.info for entry in entries.values()),
        fingerprint=origin.fingerprint,
        causal=origin.causal,
    )
    plans = {name: EXPANDED if e.plan.slow else e.plan for name, e in entries.items()}
    # An expansion runs and is not compressed again, so it need not know of structural edits.
    plan = replace(checkpoint.plan, tensors=plans, structure=())
    sidecar_files = {name: checkpoint.folder / name for name in checkpoint.manifest.files}
    sides = {name: e.side for name, e in entries.items() if plans[name] is e.plan}
    tensors = progress.track(_encodings(checkpoint), "Expanding", len(entries))
    write(target, model, plan, checkpoint.manifest.calibration, tensors, sidecar_files, sides)


def _encodings(checkpoint: Checkpoint) -> Iterator[Encoding]:
    for name, entry in checkpoint.tensors.items():
        encoding = checkpoint.encoding(name)
        if entry.plan.slow:
            expanded = keep(entry.info, encoding.decode(), DTYPE)
            encoding = replace(expanded, certificate=encoding.certificate)
        yield encoding
