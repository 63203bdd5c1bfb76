"""What a report says about a checkpoint, taken from its manifest alone: no weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mediant.checkpoint.manifest import Calibration, Entry, Manifest, Origin
from mediant.forms.parts import nbytes
from mediant.planning.plan import described
from mediant.planning.size import STORED_BYTES
from mediant.values import Certificate, TensorInfo

KINDS = {"embedding": "embedding", "head": "head", "norm": "norms", "bias": "biases", "expert": "experts"}


@dataclass(frozen=True)
class TensorRow:
    """One tensor: what became of it, its stored bytes with all side information, and what is known of its error.

    `kind` is the module's path within its layer, such as `mlp.up_proj`, or a role such as `embedding`.
    """

    name: str
    kind: str
    layer: int
    weights: int
    bytes: int
    method: str
    bit_width: str
    certificate: Certificate | None

    @property
    def bits(self) -> float:
        """Stored bits per weight."""
        return 8 * self.bytes / max(1, self.weights)


@dataclass(frozen=True)
class Summary:
    """A checkpoint at a glance. `beside` are the bytes of every file that is not the weights, by name."""

    model: Origin
    tool_version: str
    recipe: str
    seed: int
    target_bytes: int | None
    predicted_loss: float | None
    calibration: Calibration | None
    original_bytes: int
    original_dtypes: tuple[str, ...]
    bytes: int
    beside: Mapping[str, int]
    tensors: tuple[TensorRow, ...]
    structure: tuple[str, ...] = ()
    original_weights: int | None = None

    @property
    def bits_per_weight(self) -> float:
        """Every stored bit of every file over the weights of the model."""
        return 8 * self.bytes / self.model.weights

    def bytes_by_kind(self) -> dict[str, int]:
        """Returns the bytes of the tensors by kind, largest first, and of the other files; adds up to `bytes`."""
        found: dict[str, int] = {}
        for row in self.tensors:
            found[row.kind] = found.get(row.kind, 0) + row.bytes
        ordered = dict(sorted(found.items(), key=lambda item: -item[1]))
        return {**ordered, "other files": self.bytes - sum(found.values())}

    def largest_errors(self, count: int = 10) -> list[TensorRow]:
        """Returns the tensors of largest relative error, largest first."""
        known = [row for row in self.tensors if row.certificate is not None]
        return sorted(known, key=lambda row: -row.certificate.relative_error if row.certificate else 0)[:count]


def summarize(manifest: Manifest, files: Mapping[str, int]) -> Summary:
    """Returns the summary of a checkpoint with this manifest and these files, name to bytes."""
    entries = manifest.tensors.values()
    return Summary(
        model=manifest.model,
        tool_version=manifest.tool_version,
        recipe=manifest.recipe,
        seed=manifest.seed,
        target_bytes=manifest.target_bytes,
        predicted_loss=manifest.predicted_loss,
        calibration=manifest.calibration,
        original_bytes=sum(e.info.size * STORED_BYTES.get(e.info.dtype, 4) for e in entries),
        original_dtypes=tuple(sorted({e.info.dtype for e in entries})),
        bytes=sum(files.values()),
        beside={name: size for name, size in files.items() if not name.endswith(".safetensors")},
        tensors=tuple(_row(entry) for entry in entries),
        structure=tuple(described(edit) for edit in manifest.structure),
        original_weights=manifest.original_weights,
    )


def _row(entry: Entry) -> TensorRow:
    words = entry.plan.words()
    return TensorRow(
        name=entry.info.name,
        kind=_kind(entry.info),
        layer=entry.info.layer,
        weights=entry.info.size,
        bytes=nbytes({name: (part.dtype, part.shape) for name, part in entry.parts.items()}),
        method=words.full,
        bit_width=words.bit_width or "–",
        certificate=entry.certificate,
    )


def _kind(info: TensorInfo) -> str:
    """Returns the module's path behind the number of its layer; modules outside the layers go by their role."""
    path = info.module.split(".")
    if info.role in KINDS or info.layer < 0 or str(info.layer) not in path:
        return KINDS.get(info.role, info.module or info.name)
    return ".".join(path[path.index(str(info.layer)) + 1 :])
