"""The manifest `mediant.json`: what a checkpoint is, and what became of every tensor.

Its length depends only on the model and the plan, so that a size can be met to the byte before anything is encoded:
hashes and measured numbers have a fixed width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mediant.checkpoint.header import header_bytes, place
from mediant.forms import Form, Side
from mediant.planning.plan import Plan
from mediant.values import MOST_STEPS, Certificate, Model, TensorInfo

FORMAT = "mediant"
VERSION = 2
MANIFEST_FILE = "mediant.json"
PAYLOAD_FILE = "mediant.safetensors"
NUMBER_WIDTH = len("1.000000e-01")
STEPS_WIDTH = len(str(MOST_STEPS))
UNKNOWN_HASH = "0" * 64


@dataclass(frozen=True)
class Calibration:
    """Which text the statistics came from."""

    source: str
    tokens: int
    text_fingerprint: str


@dataclass(frozen=True)
class Origin:
    """The model that was compressed."""

    name: str
    architecture: str
    fingerprint: str
    weights: int
    causal: bool


@dataclass(frozen=True)
class Part:
    """One stored array; `sha256` is that of its bytes, in hexadecimal."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str = UNKNOWN_HASH


@dataclass(frozen=True)
class Entry:
    """What became of one tensor. `side` is None where there is no side information, or only encoding will tell."""

    info: TensorInfo
    plan: Form
    side: Side | None
    parts: Mapping[str, Part]
    certificate: Certificate | None = None


@dataclass(frozen=True)
class Manifest:
    """All that `mediant.json` says. `files` are the names of the files beside the two that are always there.

    `structure` are the edits that came first (`Plan.structure`), and `original_weights` what the model had before them.
    """

    tool_version: str
    model: Origin
    recipe: str
    seed: int
    target_bytes: int | None
    predicted_loss: float | None
    calibration: Calibration | None
    files: tuple[str, ...]
    tensors: Mapping[str, Entry]
    tune_steps: int = 0
    block_steps: int = 0
    code_steps: int = 0
    after: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    structure: tuple[Mapping[str, Any], ...] = ()
    original_weights: int | None = None

    def part_shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of everything in `mediant.safetensors`, by key, in the order of the manifest."""
        return {
            f"{name}.{part}": (stored.dtype, stored.shape)
            for name, entry in self.tensors.items()
            for part, stored in entry.parts.items()
        }

    def to_json(self) -> str:
        """Returns the text of `mediant.json`.

        Raises:
            ValueError: a certificate or the predicted loss is negative or not finite.
        """
        head = {
            "format": FORMAT,
            "version": VERSION,
            "tool_version": self.tool_version,
            "model": asdict(self.model),
            "recipe": self.recipe,
            "seed": self.seed,
            "target_bytes": self.target_bytes,
            "calibration": None if self.calibration is None else asdict(self.calibration),
            "files": self.files,
        }
        if self.structure:
            head["structure"] = {"original_weights": self.original_weights, "edits": self.structure}
        if self.block_steps or self.code_steps:
            head["code_training"] = {"block_steps": self.block_steps, "code_steps": self.code_steps}
        if self.after:
            head["after"] = self.after
        tensors = ",\n".join(f"{_compact(name)}:{_entry_json(entry)}" for name, entry in self.tensors.items())
        loss = fixed_width(self.predicted_loss)
        steps = str(self.tune_steps).rjust(STEPS_WIDTH)
        return f'{_compact(head)[:-1]},"predicted_loss":{loss},"tune_steps":{steps},"tensors":{{\n{tensors}}}}}\n'


def installed_version() -> str:
    """Returns the version of Mediant that writes."""
    # Imported late: only a file that is written needs it, and every start would pay.
    from importlib.metadata import version

    return version("mediant")


def planned_manifest(
    model: Model,
    plan: Plan,
    calibration: Calibration | None,
    files: tuple[str, ...],
    sides: Mapping[str, Side] | None = None,
) -> Manifest:
    """Returns the manifest of a plan before anything is encoded: as long as the final one, with hashes and errors
    unknown.

    `sides` has the side information of tensors, by name, that no plan can tell.

    Raises:
        PlanError: the plan does not fit the model.
    """
    return Manifest(
        tool_version=installed_version(),
        model=Origin(model.name, model.architecture, model.unedited.fingerprint, model.weights, model.causal),
        structure=model.edits,
        original_weights=model.unedited.weights if model.edits else None,
        recipe=plan.recipe,
        seed=plan.seed,
        target_bytes=plan.target_bytes,
        predicted_loss=plan.predicted_loss,
        tune_steps=plan.tune_steps,
        block_steps=plan.block_steps,
        code_steps=plan.code_steps,
        after=plan.after,
        calibration=calibration,
        files=tuple(sorted(files)),
        tensors={
            info.name: _forecast_entry(info, plan.tensors[info.name], (sides or {}).get(info.name))
            for info in model.tensors
        },
    )


def _forecast_entry(info: TensorInfo, plan: Form, side: Side | None) -> Entry:
    planned = plan.side(info)
    side = side if planned is None else planned
    parts = {name: Part(dtype, shape) for name, (dtype, shape) in plan.parts(info, side).items()}
    return Entry(info, plan, side, parts)


def entry_bytes(info: TensorInfo, plan: Form) -> int:
    """Returns the bytes that one tensor adds to the manifest and, but for a few digits of offsets, to the header of the
    parts.

    Raises:
        PlanError: the plan does not fit the tensor.
    """
    entry = _forecast_entry(info, plan, None)
    slots = place({f"{info.name}.{part}": (stored.dtype, stored.shape) for part, stored in entry.parts.items()})
    beside = len(header_bytes({}, {}))
    return len(f"{_compact(info.name)}:{_entry_json(entry)},\n".encode()) + len(header_bytes(slots, {})) - beside


def is_sidecar(name: str) -> bool:
    """Checks that a file of that path may lie in a checkpoint's folder beside the two that are always there.

    >>> is_sidecar("config.json"), is_sidecar("1_Pooling/config.json"), is_sidecar("mediant.json")
    (True, True, False)
    >>> is_sidecar("../config.json"), is_sidecar("/config.json"), is_sidecar("C:/config.json")
    (False, False, False)
    """
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") for part in parts) and not set(name) & set("\\:") and name.isprintable()
    return plain and parts[0] not in (MANIFEST_FILE, PAYLOAD_FILE)


def fixed_width(number: float | None) -> str:
    """Returns a number from 0 to 9.999999e99, or null, as JSON in `NUMBER_WIDTH` characters; below 1e-99 it becomes 0.

    Raises:
        ValueError: any other number.

    >>> fixed_width(0.25), fixed_width(None)
    ('2.500000e-01', '        null')
    """
    if number is None:
        return "null".rjust(NUMBER_WIDTH)
    text = f"{0.0 if 0 <= number < 1e-99 else number:.6e}"
    if not (math.isfinite(number) and len(text) == NUMBER_WIDTH):
        raise ValueError(f"the manifest holds numbers from 0 to 9.999999e99, not {number}")
    return text


def _entry_json(entry: Entry) -> str:
    info = {name: value for name, value in vars(entry.info).items() if name != "name"}
    text = info | {"plan": entry.plan.to_dict()}
    if entry.side is not None:
        text |= entry.plan.side_to_dict(entry.side)
    text["parts"] = {name: vars(part) for name, part in entry.parts.items()}
    return f'{_compact(text)[:-1]},"certificate":{_certificate_json(entry.certificate)}}}'


def _certificate_json(certificate: Certificate | None) -> str:
    names = Certificate.__dataclass_fields__
    numbers = (fixed_width(None if certificate is None else getattr(certificate, name)) for name in names)
    return "{" + ",".join(f'"{name}":{number}' for name, number in zip(names, numbers, strict=True)) + "}"


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
