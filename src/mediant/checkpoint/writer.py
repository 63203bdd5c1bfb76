"""Writing a checkpoint: the folder appears whole under its name, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from mediant import files
from mediant.checkpoint.header import Slot, header_bytes, place
from mediant.checkpoint.manifest import (
    FORMAT,
    MANIFEST_FILE,
    PAYLOAD_FILE,
    UNKNOWN_HASH,
    VERSION,
    Calibration,
    Entry,
    Manifest,
    is_sidecar,
    planned_manifest,
)
from mediant.checkpoint.manifest_parsing import parse_manifest
from mediant.checkpoint.reader import read_manifest
from mediant.errors import CheckpointError, StorageError
from mediant.files import storage_errors
from mediant.forms import Encoding, Side
from mediant.planning.plan import Plan
from mediant.staging import staged
from mediant.values import Array, Model


def overhead_bytes(
    model: Model,
    plan: Plan,
    calibration: Calibration | None,
    sidecar_files: Iterable[str],
    sides: Mapping[str, Side] | None = None,
) -> int:
    """Returns the bytes of a checkpoint beside the parts and the sidecar files: the manifest and the safetensors
    header, exactly.

    Args:
        model, plan, calibration, sides: as for `write`.
        sidecar_files: names of the other files.

    Raises:
        PlanError: the plan does not fit the model.
    """
    manifest = _planned(model, plan, calibration, sidecar_files, sides)
    return len(manifest.to_json().encode()) + len(_header(place(manifest.part_shapes()), UNKNOWN_HASH))


def write(
    folder: Path,
    model: Model,
    plan: Plan,
    calibration: Calibration | None,
    encodings: Iterable[Encoding],
    sidecar_files: Mapping[str, bytes | Path],
    sides: Mapping[str, Side] | None = None,
) -> None:
    """Writes a checkpoint; the same arguments give the same bytes.

    Parts go to the disk as the encodings come, in any order, each tensor of the model once. All files are synced
    under a temporary name beside `folder` before that takes the place of what was there. A process that is killed
    leaves at most the temporary folder, which the next `write` to the same place removes.

    Args:
        folder: where; it may hold an older checkpoint.
        model: what was compressed.
        plan: what became of each tensor.
        calibration: which text the statistics came from.
        encodings: the tensors, approximated by the plan.
        sidecar_files: content, or file to copy, by the name of every other file.
        sides: side information of all tensors of which the plan does not tell it, by name (`forms.Encoding.side`).

    Raises:
        StorageError: something else is at `folder`, or the disk refuses; nothing has changed then.
        CheckpointError: an encoding is not sound, or a text for the manifest cannot be printed.
        PlanError: the plan does not fit the model.
        ValueError: the encodings are not those of the plan, or the name of a sidecar file is not that of a file.
    """
    folder = folder.resolve()
    check_replaceable(folder)
    planned = _planned(model, plan, calibration, sidecar_files, sides)
    # What the reader would refuse is refused before hours of work.
    parse_manifest(planned.to_json().encode(), "the manifest to be written")
    with staged(folder) as staging:
        text = _write_payload(folder, staging / PAYLOAD_FILE, planned, encodings)
        with storage_errors(folder):
            _write_file(staging / MANIFEST_FILE, text)
            for name, content in sidecar_files.items():
                _write_file(staging / name, content)
            files.sync(staging)


def check_replaceable(folder: Path) -> None:
    """Refuses to write where something other than an older checkpoint is, or files that were not part of it.

    Raises:
        StorageError: naming what is in the way.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StorageError(f"{folder} is a file; a checkpoint is a folder.")
    with storage_errors(folder):
        found = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*")}
        present = {name for name, f in found.items() if not f.is_dir() or not any(f.iterdir())}
    if present and MANIFEST_FILE not in present:
        raise StorageError(f"{folder} is not empty and not a Mediant checkpoint; name a new folder.")
    try:
        known = {MANIFEST_FILE, PAYLOAD_FILE, *read_manifest(folder).files} if present else set()
    except CheckpointError as problem:
        raise StorageError(
            f"The checkpoint in {folder} is damaged, so it is not replaced; remove it: {problem}"
        ) from None
    if present - known:
        raise StorageError(
            f"{folder} holds {min(present - known)!r}, which is not part of the checkpoint there; move it away."
        )


def _planned(
    model: Model,
    plan: Plan,
    calibration: Calibration | None,
    sidecar_files: Iterable[str],
    sides: Mapping[str, Side] | None,
) -> Manifest:
    names = tuple(sidecar_files)
    if wrong := [name for name in names if not is_sidecar(name)]:
        raise ValueError(f"{wrong[0]!r} is not the name of a file that may lie in a checkpoint")
    return planned_manifest(model, plan, calibration, names, sides)


def _write_payload(folder: Path, file: Path, planned: Manifest, encodings: Iterable[Encoding]) -> bytes:
    """Writes all parts and the header of what will be `folder`; returns the manifest, whose hash the header has."""
    slots = place(planned.part_shapes())
    start = len(_header(slots, UNKNOWN_HASH))
    entries: dict[str, Entry] = {}
    with _created(folder, file) as descriptor:
        with storage_errors(folder):
            _reserve(descriptor, start + max((slot.end for slot in slots.values()), default=0))
        for encoding in encodings:
            name = encoding.info.name
            entries[name] = _finished(encoding, planned.tensors.get(name), name in entries)
            with storage_errors(folder):
                for part, array in encoding.parts.items():
                    _write_at(descriptor, _bytes(array), start + slots[f"{name}.{part}"].begin)
        text = _final(planned, entries).to_json().encode()
        with storage_errors(folder):
            _write_at(descriptor, _header(slots, files.sha256(text)), 0)
            os.fsync(descriptor)
    return text


def _finished(encoding: Encoding, planned: Entry | None, again: bool) -> Entry:
    if planned is None or again or (encoding.info, encoding.plan) != (planned.info, planned.plan):
        raise ValueError(f"the encoding of {encoding.info.name!r} is not the one that the plan asks for")
    planned.plan.verify(encoding.info, encoding.parts, planned.side)
    parts = {
        part: replace(stored, sha256=files.sha256(_bytes(encoding.parts[part])))
        for part, stored in planned.parts.items()
    }
    return replace(planned, parts=parts, certificate=encoding.certificate)


def _final(planned: Manifest, entries: Mapping[str, Entry]) -> Manifest:
    if missing := planned.tensors.keys() - entries.keys():
        raise ValueError(f"there is no encoding of {min(missing)!r}")
    return replace(planned, tensors={name: entries[name] for name in planned.tensors})


def _header(slots: Mapping[str, Slot], manifest_sha256: str) -> bytes:
    return header_bytes(slots, {"format": FORMAT, "version": str(VERSION), "manifest_sha256": manifest_sha256})


def _bytes(array: Array) -> memoryview:
    little_endian = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return little_endian.reshape(-1).view(np.uint8).data


@contextlib.contextmanager
def _created(folder: Path, file: Path) -> Iterator[int]:
    """The descriptor of a new file. Unbuffered, so that closing it cannot fail for want of space."""
    with storage_errors(folder):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _reserve(descriptor: int, size: int) -> None:
    """Takes the space at once, so that a full disk is known before the work and not after it."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as problem:
            # Anything else is a file system that cannot do this; writing will show what it can.
            if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise


def _write_at(descriptor: int, data: bytes | memoryview, position: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, position)
        position += written
        rest = rest[written:]


def _write_file(file: Path, content: bytes | Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        shutil.copyfile(content, file)
    else:
        file.write_bytes(content)
    files.sync(file)
