"""The manifest read back: nothing is believed that was not checked, and nothing large is allocated."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, get_args

from mediant.checkpoint import strict_json
from mediant.checkpoint.header import MOST_AXES
from mediant.checkpoint.manifest import FORMAT, VERSION, Calibration, Entry, Manifest, Origin, Part, is_companion
from mediant.errors import CheckpointError, PlanError
from mediant.kernels.pairs import is_codebook
from mediant.kernels.part_shapes import CodedForm, FactorsForm, Form, GridForm, SparseForm, part_shapes
from mediant.kernels.sparse_positions import Positions
from mediant.plans import FACTORS, LATTICE_FIELDS, TensorPlan, checked_edits, tensor_plan_from_dict, tensor_plan_to_dict
from mediant.values import Certificate, Layout, Role, TensorInfo

NUMBER = (int, float)
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
PLAN: strict_json.Kinds = {
    "method": str,
    "dtype": str,
    "grid": dict,
    "scale": dict,
    "rounding": dict,
    "runs": list,
    "group": int,
    "scale_bits": int,
    "scale_signed": bool,
    "scale_steps": int,
    "storage": str,
    "drops": list,
    "basis": dict,
    "outliers": int,
    "bias_correction": bool,
    "pattern": dict,
    "score": dict,
    **dict.fromkeys(LATTICE_FIELDS, NUMBER),
    "multiplier": NUMBER,
    "rate": NUMBER,
    "cluster": int,
    "sequences": int,
    "renewal": int,
    "low_rank": dict,
    "rank": int,
    **dict.fromkeys(FACTORS, dict),
}
# Numbers of a certificate that may be unknown while the others are known.
BOUNDS = {"worst_error", "expected_error"}
PART: strict_json.Kinds = {"dtype": str, "shape": list, "sha256": str}
# Reaches every grid of whole or half steps that eight bits can index.
LARGEST_FIRST_LEVEL = 1 << 16


def parse_manifest(data: bytes, where: str) -> Manifest:
    """The manifest in the bytes of a `mediant.json`.

    Raises:
        CheckpointError: one sentence about the first thing in it that no Mediant of this version writes.
    """
    value = strict_json.mapping(strict_json.parse(data, where), where)
    if value.get("format") != FORMAT:
        raise CheckpointError(f"{where} is not the manifest of a Mediant checkpoint.")
    if type(value.get("version")) is not int or value["version"] != VERSION:
        raise CheckpointError(
            f"{where} has version {str(value.get('version'))[:20]}; this Mediant reads version {VERSION}."
        )
    sometimes: strict_json.Kinds = {name: dict for name in ("structure", "code_training") if name in value}
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
    extra = {field for field in ("grid", "positions") if isinstance(value, dict) and field in value}
    found = strict_json.fields(value, {**ENTRY, **dict.fromkeys(extra, dict)}, where)
    info, plan = _info(name, found, where), _plan(found["plan"], where)
    quantized = any(p.method == "quantize" for p in (plan, *plan.factors.values()))
    quantized |= plan.method == "sparse" and bool(plan.grid)
    if ("grid" in extra) != quantized or ("positions" in extra) != (plan.method == "sparse"):
        raise CheckpointError(f"In {where}, a grid goes with quantized weights, positions with sparse ones, only.")
    parts = {
        part: _part(stored, f"the part {part!r} of {where}")
        for part, stored in strict_json.mapping(found["parts"], f"'parts' in {where}").items()
    }
    try:
        if plan.method == "sparse":
            grid = _grid_form(found["grid"], plan, parts, where) if quantized else None
            form: Form | None = SparseForm(_positions(info, found["positions"], where), grid)
        else:
            form = _form(found.get("grid", {}), info, plan, parts, where)
        expected = part_shapes(info, plan, form)
    except PlanError as problem:
        raise CheckpointError(f"In {where}, the plan is impossible: {problem}") from None
    if {part: (stored.dtype, stored.shape) for part, stored in parts.items()} != expected:
        raise CheckpointError(f"In {where}, the parts are not those of the plan, which are: {_listed(expected)}.")
    return Entry(info, plan, form, parts, _certificate(found["certificate"], where))


def _positions(info: TensorInfo, value: dict[str, Any], where: str) -> Positions:
    try:
        return Positions.from_dict(*info.matrix_shape, value)
    except ValueError as problem:
        raise CheckpointError(f"In {where}, {problem}.") from None


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


def _plan(value: dict[str, Any], where: str) -> TensorPlan:
    known = {name: kind for name, kind in PLAN.items() if name in value}
    raw = strict_json.fields(value, known, f"the plan in {where}")
    for given in (raw, *(raw[name] for name in FACTORS if name in raw)):
        _check_pairs(given.get("runs", []), "a run is not a pair of rows and bits", where)
        _check_pairs(given.get("drops", []), "a drop is not a pair of bits and a place", where)
    try:
        plan = tensor_plan_from_dict(raw)
    except (TypeError, ValueError) as problem:
        raise CheckpointError(f"The plan in {where} is not one: {problem}.") from None
    # What a plan does not write, or writes otherwise, was not written by Mediant.
    if json.dumps(tensor_plan_to_dict(plan), sort_keys=True) != json.dumps(raw, sort_keys=True):
        raise CheckpointError(f"The plan in {where} lacks a field of its method or has one of another.")
    return plan


def _check_pairs(pairs: Any, problem: str, where: str) -> None:
    numbers = strict_json.whole_numbers
    if not isinstance(pairs, list) or any(len(numbers(pair, f"A pair in {where}")) != 2 for pair in pairs):
        raise CheckpointError(f"In {where}, {problem}.")


def _form(
    value: dict[str, Any], info: TensorInfo, plan: TensorPlan, parts: Mapping[str, Part], where: str
) -> Form | None:
    if plan.method == "quantize":
        return _grid_form(value, plan, parts, where)
    return _factors_form(value, plan, parts, where) if plan.method == "factors" else _coded_form(info, plan, parts)


def _factors_form(value: dict[str, Any], plan: TensorPlan, parts: Mapping[str, Part], where: str) -> FactorsForm:
    quantized = {name: factor for name, factor in plan.factors.items() if factor.method == "quantize"}
    if value.keys() != quantized.keys() or not all(isinstance(grid, dict) for grid in value.values()):
        raise CheckpointError(f"In {where}, there is not one grid for each quantized factor.")

    def of(factor: str) -> dict[str, Part]:
        prefix = f"{factor}."
        return {name.removeprefix(prefix): part for name, part in parts.items() if name.startswith(prefix)}

    return FactorsForm({name: _grid_form(value[name], factor, of(name), where) for name, factor in quantized.items()})


def _grid_form(value: dict[str, Any], plan: TensorPlan, parts: Mapping[str, Part], where: str) -> GridForm:
    depths = {str(run.bits): run.bits for run in plan.runs}
    if value == {"kind": "zero_point"}:
        return GridForm(zero_point=True)
    if value == {"kind": "table"}:
        leading = {bits for bits in range(1, max(depths.values())) if f"levels.{bits}" in parts}
        counted = sorted({*depths.values(), *leading})
        return GridForm(counts={bits: _count(parts.get(f"levels.{bits}"), bits, where) for bits in counted})
    first = value.get("first")
    if value != {"kind": "affine", "first": first} or not isinstance(first, dict) or first.keys() != depths.keys():
        raise CheckpointError(
            f"In {where}, the grid is none of zero_point, table and affine with a first level a depth."
        )
    if any(type(n) not in NUMBER or abs(n) > LARGEST_FIRST_LEVEL or 2 * n != int(2 * n) for n in first.values()):
        raise CheckpointError(f"In {where}, a first level is not a multiple of 1/2 of at most {LARGEST_FIRST_LEVEL}.")
    return GridForm(first={depths[bits]: float(n) for bits, n in first.items()})


def _coded_form(info: TensorInfo, plan: TensorPlan, parts: Mapping[str, Part]) -> Form | None:
    """What the parts of a coded matrix say themselves: their lengths, which are checked against the least possible."""
    if plan.method == "compand":
        return CodedForm(parts["codes"].shape[0] if "codes" in parts and parts["codes"].shape else 0)
    if plan.method != "lattice":
        return None
    return CodedForm(
        *(parts[name].shape[0] if name in parts and parts[name].shape else 0 for name in ("codes", "codebook"))
    )


def _count(levels: Part | None, bits: int, where: str) -> int:
    if levels is not None and len(levels.shape) == 1:
        count = levels.shape[0]
        if 1 <= count <= 1 << min(bits, 8) or is_codebook(bits, count):
            return count
    raise CheckpointError(f"In {where}, a table grid needs 1 to 2^{bits} levels in the part 'levels.{bits}'.")


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
    if not all(map(is_companion, names)) or len(set(names)) != len(names):
        raise CheckpointError(f"'files' of {where} are not different names of files beside the manifest.")
    return names


def _listed(parts: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} ({dtype}, {list(shape)})" for name, (dtype, shape) in parts.items())
