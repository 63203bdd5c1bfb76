"""The manifest read back: nothing is believed that was not checked, and nothing large is allocated."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, get_args

from mediant.checkpoint import strict_json
from mediant.checkpoint.header import MOST_AXES
from mediant.checkpoint.manifest import FORMAT, VERSION, Calibration, Entry, Manifest, Origin, Part, is_sidecar
from mediant.errors import CheckpointError, PlanError
from mediant.forms import Form, from_dict
from mediant.planning.plan import checked_after, checked_edits
from mediant.values import Certificate, Layout, Role, TensorInfo

OPTIONAL_NUMBER = (int, float, type(None))
MANIFEST: strict_json.Kinds = {
    "format": str,
    "version": int,
    "tool_version": str,
    "model": dict,
    "recipe": str,
    "seed": int,
    "target_bytes": (int, type(None)),
    "tune_steps": int,
    "predicted_loss": OPTIONAL_NUMBER,
    "calibration": (dict, type(None)),
    "files": list,
    "tensors": dict,
}
ORIGIN: strict_json.Kinds = {"name": str, "architecture": str, "fingerprint": str, "weights": int, "causal": bool}
CODE_TRAINING: strict_json.Kinds = {"block_steps": int, "code_steps": int}
STRUCTURE: strict_json.Kinds = {"original_weights": int, "edits": list}
CALIBRATION: strict_json.Kinds = {"source": str, "tokens": int, "text_fingerprint": str}
ENTRY: strict_json.Kinds = {
    "shape": list,
    "dtype": str,
    "role": str,
    "layout": str,
    "module": str,
    "layer": int,
    "aliases": list,
    "plan": dict,
    "parts": dict,
    "certificate": dict,
}
# Numbers of a certificate that may be unknown while the others are known.
BOUNDS = {"worst_error", "expected_error"}
PART: strict_json.Kinds = {"dtype": str, "shape": list, "sha256": str}


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Returns the manifest in the bytes of a `mediant.json`.

    Raises:
        CheckpointError: one sentence about the first thing in it that no Mediant of this version writes.
    """
    value = strict_json.mapping(strict_json.parse(data, where), where)
    if value.get("format") != FORMAT:
        raise CheckpointError(f"{where} is not the manifest of a Mediant checkpoint.")
    if type(value.get("version")) is not int or value["version"] != VERSION:
        old = value.get("version") == 1 and type(value["version"]) is int
        raise CheckpointError(
            f"{where} has version {str(value.get('version'))[:20]}; this Mediant reads version {VERSION}."
            + (" Methods and grids had other names before it; compress the model again." if old else "")
        )
    sometimes: strict_json.Kinds = {name: dict for name in ("structure", "code_training", "after") if name in value}
    head = strict_json.fields(value, {**MANIFEST, **sometimes}, where)
    tensors = strict_json.mapping(head["tensors"], f"'tensors' of {where}")
    entries = {name: _entry(name, entry, f"the entry {name!r} of {where}") for name, entry in tensors.items()}
    _check_names(entries, where)
    return Manifest(
        tool_version=head["tool_version"],
        model=Origin(**strict_json.fields(head["model"], ORIGIN, f"'model' of {where}")),
        recipe=head["recipe"],
        seed=head["seed"],
        target_bytes=head["target_bytes"],
        tune_steps=head["tune_steps"],
        predicted_loss=_number(head["predicted_loss"], where),
        calibration=_calibration(head["calibration"], where),
        files=_files(head["files"], where),
        tensors=entries,
        **(_structure(head["structure"], where) if "structure" in head else {}),
        after=_after(head.get("after", {}), where),
        **(_code_training(head["code_training"], where) if "code_training" in head else {}),
    )


def _check_names(entries: Mapping[str, Entry], where: str) -> None:
    seen = set()
    for entry in entries.values():
        for name in (entry.info.name, *entry.info.aliases):
            if name in seen:
                raise CheckpointError(f"{where} gives the name {name!r} to two tensors.")
            seen.add(name)


def _code_training(value: dict[str, Any], where: str) -> dict[str, Any]:
    found: dict[str, int] = strict_json.fields(value, CODE_TRAINING, f"'code_training' of {where}")
    if min(found.values()) < 0 or max(found.values()) == 0:
        raise CheckpointError(f"'code_training' of {where} does not count any steps.")
    return found


def _after(value: dict[str, Any], where: str) -> Mapping[str, Mapping[str, Any]]:
    try:
        return checked_after(value)
    except ValueError as problem:
        raise CheckpointError(f"In {where}, {problem}.") from None


def _structure(value: dict[str, Any], where: str) -> dict[str, Any]:
    found = strict_json.fields(value, STRUCTURE, f"'structure' of {where}")
    try:
        edits = checked_edits(found["edits"])
    except ValueError as problem:
        raise CheckpointError(f"In {where}, {problem}.") from None
    if not edits or found["original_weights"] < 0:
        raise CheckpointError(f"In {where}, 'structure' has no edits, or fewer weights than none.")
    return {"structure": edits, "original_weights": found["original_weights"]}


def _calibration(value: Any, where: str) -> Calibration | None:
    return None if value is None else Calibration(**strict_json.fields(value, CALIBRATION, f"'calibration' of {where}"))


def _entry(name: str, value: Any, where: str) -> Entry:
    plan = _plan(strict_json.mapping(value, where).get("plan"), where)
    found = strict_json.fields(value, {**ENTRY, **dict.fromkeys(plan.side_fields, dict)}, where)
    info = _info(name, found, where)
    parts = {
        part: _part(stored, f"the part {part!r} of {where}")
        for part, stored in strict_json.mapping(found["parts"], f"'parts' in {where}").items()
    }
    shapes = {part: (stored.dtype, stored.shape) for part, stored in parts.items()}
    try:
        side = plan.side_from_dict(info, {field: found[field] for field in plan.side_fields}, shapes)
        expected = plan.parts(info, side)
    except PlanError as problem:
        raise CheckpointError(f"In {where}, the plan is impossible: {problem}") from None
    except ValueError as problem:
        raise CheckpointError(f"In {where}, {problem}.") from None
    if shapes != expected:
        raise CheckpointError(f"In {where}, the parts are not those of the plan, which are: {_listed(expected)}.")
    return Entry(info, plan, side, parts, _certificate(found["certificate"], where))


def _info(name: str, found: Mapping[str, Any], where: str) -> TensorInfo:
    if found["role"] not in get_args(Role) or found["layout"] not in get_args(Layout):
        raise CheckpointError(f"In {where}, the role {found['role']!r} or the layout {found['layout']!r} is unknown.")
    if found["layer"] < -1:
        raise CheckpointError(f"In {where}, the layer is {found['layer']}; it is -1 or an index.")
    return TensorInfo(
        name=name,
        shape=_shape(found["shape"], where),
        dtype=found["dtype"],
        role=found["role"],
        layout=found["layout"],
        module=found["module"],
        layer=found["layer"],
        aliases=_texts(found["aliases"], f"'aliases' in {where}"),
    )


def _plan(value: Any, where: str) -> Form:
    raw = strict_json.mapping(value, f"The plan in {where}")
    if unprintable := [text for text in raw.values() if isinstance(text, str) and not text.isprintable()]:
        raise CheckpointError(f"The plan in {where} holds characters that cannot be printed: {unprintable[0][:40]!r}.")
    try:
        plan = from_dict(raw)
    except (TypeError, ValueError, PlanError) as problem:
        raise CheckpointError(f"The plan in {where} is not one: {str(problem).rstrip('.')}.") from None
    # What a plan does not write, or writes otherwise, was not written by Mediant.
    if json.dumps(plan.to_dict(), sort_keys=True) != json.dumps(raw, sort_keys=True):
        raise CheckpointError(f"The plan in {where} lacks a field of its method or has one of another.")
    return plan


def _part(value: Any, where: str) -> Part:
    found = strict_json.fields(value, PART, where)
    if not re.fullmatch("[0-9a-f]{64}", found["sha256"]):
        raise CheckpointError(f"In {where}, the SHA-256 is not 64 hexadecimal digits in lower case.")
    return Part(found["dtype"], _shape(found["shape"], where), found["sha256"])


def _shape(value: Any, where: str) -> tuple[int, ...]:
    shape = strict_json.whole_numbers(value, f"The shape in {where}")
    if len(shape) > MOST_AXES:
        raise CheckpointError(f"In {where}, a shape has {len(shape)} axes; at most {MOST_AXES} are right.")
    return shape


def _certificate(value: Any, where: str) -> Certificate | None:
    names = Certificate.__dataclass_fields__
    found = strict_json.fields(value, dict.fromkeys(names, OPTIONAL_NUMBER), f"the certificate in {where}")
    numbers = {name: _number(found[name], where) for name in names}
    missing = {name for name, number in numbers.items() if number is None}
    if missing == set(names):
        return None
    if missing and missing != BOUNDS:
        raise CheckpointError(f"In {where}, the certificate is known only in part.")
    return Certificate(**numbers)  # type: ignore[arg-type]


def _number(value: float | None, where: str) -> float | None:
    if value is not None and not 0 <= value < 1e100:
        raise CheckpointError(f"In {where}, a measured number is outside 0 to 1e100.")
    return None if value is None else float(value)


def _texts(value: list[Any], where: str) -> tuple[str, ...]:
    if any(type(text) is not str or not text.isprintable() for text in value):
        raise CheckpointError(f"{where} is not a list of printable texts.")
    return tuple(value)


def _files(value: list[Any], where: str) -> tuple[str, ...]:
    names = _texts(value, f"'files' of {where}")
    if not all(map(is_sidecar, names)) or len(set(names)) != len(names):
        raise CheckpointError(f"'files' of {where} are not different names of files beside the manifest.")
    return names


def _listed(parts: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} ({dtype}, {list(shape)})" for name, (dtype, shape) in parts.items())
