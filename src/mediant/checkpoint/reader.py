"""Reading a checkpoint: cheap checks of everything first, then one tensor at a time from the mapped file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mediant import files
from mediant.checkpoint import strict_json
from mediant.checkpoint.header import LENGTH_BYTES, Slot, header_length, parse_header
from mediant.checkpoint.manifest import FORMAT, MANIFEST_FILE, PAYLOAD_FILE, VERSION, Entry, Manifest, Origin
from mediant.checkpoint.manifest_parsing import parse_manifest
from mediant.errors import CheckpointError, ModelError, PlanError
from mediant.forms import Encoding
from mediant.forms.parts import NUMPY_DTYPES
from mediant.models import impostors
from mediant.planning.plan import Plan
from mediant.values import Array

# Far more than the manifest of any model needs; parsed JSON takes some ten times its length in memory.
MOST_MANIFEST_BYTES = 100_000_000


@dataclass(frozen=True)
class Checkpoint:
    """A compressed model on disk, its structure checked; weights are read, and their hashes checked, when asked for.

    The file stays mapped, so the checkpoint can be read on even if its folder is replaced.
    """

    folder: Path
    manifest: Manifest
    slots: Mapping[str, Slot] = field(repr=False)
    data: NDArray[np.uint8] = field(repr=False, compare=False)

    @property
    def tensors(self) -> Mapping[str, Entry]:
        """Entries of all tensors, by name, in model order."""
        return self.manifest.tensors

    @property
    def model(self) -> Origin:
        """The model that was compressed."""
        return self.manifest.model

    @property
    def plan(self) -> Plan:
        """The plan that leads to this checkpoint again."""
        m = self.manifest
        return Plan(
            model_fingerprint=m.model.fingerprint,
            recipe=m.recipe,
            seed=m.seed,
            tensors={name: entry.plan for name, entry in m.tensors.items()},
            target_bytes=m.target_bytes,
            tune_steps=m.tune_steps,
            block_steps=m.block_steps,
            code_steps=m.code_steps,
            after=m.after,
            predicted_loss=m.predicted_loss,
            structure=m.structure,
            calibrated=m.calibration is not None,
        )

    def encoding(self, name: str, hashed: bool = True) -> Encoding:
        """Returns one tensor as it is stored; its parts are read-only views of the file.

        Without `hashed`, neither codes nor cast weights are read yet: of what is read later, only that scales and
        levels are sound is checked.

        Raises:
            KeyError: there is no tensor of that name.
            CheckpointError: a hash differs, or the parts do not decode to finite weights.
        """
        entry = self.tensors[name]
        hashes = {part: stored.sha256 if hashed else None for part, stored in entry.parts.items()}
        parts = {part: self._part(f"{name}.{part}", sha256) for part, sha256 in hashes.items()}
        verify = entry.plan.verify if hashed else entry.plan.verify_mapped
        verify(entry.info, parts, entry.side)
        return Encoding(entry.info, entry.plan, parts, entry.certificate, entry.side)

    def weight(self, name: str, planes: int | None = None) -> NDArray[np.float32]:
        """Returns one tensor's weights in its own shape, float32, of all bits of its codes or of so many leading ones.

        Raises:
            CheckpointError: as for `encoding`, or leading bits have no levels of their own.
        """
        return self.decoded(self.encoding(name), planes)

    def decoded(self, encoding: Encoding, planes: int | None = None) -> NDArray[np.float32]:
        """Returns the weights of an encoding of this checkpoint; else as `weight`."""
        try:
            return encoding.decode(planes)
        except ValueError as problem:
            raise CheckpointError(f"{encoding.info.name!r} in {self.folder} cannot be read so: {problem}.") from None

    def state(self, aliases: bool = False, planes: int | None = None) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Names and weights in model order, one at a time; `aliases` repeats tied tensors under their other names.

        Raises:
            CheckpointError: as for `weight`.
        """
        for name, entry in self.tensors.items():
            weight = self.weight(name, planes)
            yield name, weight
            for alias in entry.info.aliases if aliases else ():
                yield alias, weight

    def _part(self, key: str, sha256: str | None) -> Array:
        slot = self.slots[key]
        stored = self.data[slot.begin : slot.end]
        if sha256 is not None and files.sha256(stored.data) != sha256:
            where = self.folder / PAYLOAD_FILE
            raise CheckpointError(f"The part {key!r} in {where} is damaged: its SHA-256 is not that in the manifest.")
        part: Array = stored.view(NUMPY_DTYPES[slot.dtype]).reshape(slot.shape)
        return part


def open_checkpoint(folder: Path) -> Checkpoint:
    """Opens the checkpoint in a folder and checks its whole structure, without reading weights.

    Raises:
        CheckpointError: there is none, or it is damaged, tampered with or of another version.
    """
    manifest_file, payload_file = folder / MANIFEST_FILE, folder / PAYLOAD_FILE
    text = _manifest_bytes(manifest_file)
    manifest = parse_manifest(text, str(manifest_file))
    _check_sides(manifest, str(manifest_file))
    with _readable(payload_file):
        data: NDArray[np.uint8] = np.asarray(np.memmap(payload_file, np.uint8, "r"))
    slots, metadata, start = _header(data, str(payload_file))
    _check_metadata(metadata, files.sha256(text), str(payload_file))
    if {key: (slot.dtype, slot.shape) for key, slot in slots.items()} != manifest.part_shapes():
        raise CheckpointError(f"The parts in {payload_file} are not those that {manifest_file} lists.")
    return Checkpoint(folder, manifest, slots, data[start:])


def read_manifest(folder: Path) -> Manifest:
    """Returns the manifest of a checkpoint alone, checked in itself.

    Raises:
        CheckpointError: there is none, or it is damaged or of another version.
    """
    return parse_manifest(_manifest_bytes(folder / MANIFEST_FILE), str(folder / MANIFEST_FILE))


def _manifest_bytes(file: Path) -> bytes:
    with _readable(file):
        if file.stat().st_size > MOST_MANIFEST_BYTES:
            raise CheckpointError(f"{file} has {file.stat().st_size} bytes, too many for a manifest.")
        return file.read_bytes()


def _header(data: NDArray[np.uint8], where: str) -> tuple[dict[str, Slot], dict[str, str], int]:
    length = header_length(data[:LENGTH_BYTES].tobytes(), data.size, where)
    start = LENGTH_BYTES + length
    slots, metadata = parse_header(data[LENGTH_BYTES:start].tobytes(), data.size - start, where)
    return slots, metadata, start


def _check_metadata(metadata: dict[str, str], manifest_sha256: str, where: str) -> None:
    kinds = {"format": str, "version": str, "manifest_sha256": str}
    found = strict_json.fields(metadata, kinds, f"The metadata of {where}")
    if (found["format"], found["version"]) != (FORMAT, str(VERSION)):
        raise CheckpointError(f"{where} is not the file of a Mediant checkpoint of version {VERSION}.")
    if found["manifest_sha256"] != manifest_sha256:
        raise CheckpointError(
            f"{where} belongs to another {MANIFEST_FILE}: its SHA-256 is not that of the one beside it."
        )


def _check_sides(manifest: Manifest, where: str) -> None:
    """Checks the file's account of a grid or pattern, which rules, against this Mediant's where it knows them."""
    for name, entry in manifest.tensors.items():
        with contextlib.suppress(PlanError):
            if (planned := entry.plan.side(entry.info)) is not None and planned != entry.side:
                raise CheckpointError(
                    f"In {where}, what is said of {name!r} beside its plan is not what this Mediant finds for it, "
                    f"which is: {entry.plan.side_to_dict(planned)}."
                )


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turns a file that is missing, or not what its name says, into one sentence."""
    if not file.is_file():
        raise CheckpointError(f"There is no file {file}; a Mediant checkpoint has {MANIFEST_FILE} and {PAYLOAD_FILE}.")
    try:
        impostors.check(file)
        yield
    except ModelError as problem:
        raise CheckpointError(str(problem)) from None
    except (OSError, ValueError) as problem:
        raise CheckpointError(f"{file} cannot be read: {files.reason(problem)}.") from problem
