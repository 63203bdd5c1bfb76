"""`mediant inspect`: what is in a checkpoint, and whether all of the model is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mediant.cli._console import JsonOption, RichProgress, table_console, write_json
from mediant.errors import CheckpointError

if TYPE_CHECKING:
    from mediant.checkpoint.manifest import Entry
    from mediant.checkpoint.reader import Checkpoint
    from mediant.values import RowSpan


def command(
    folder: Annotated[Path, typer.Argument(help="A folder that mediant compress has written.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="Show every tensor.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read everything and check every hash.")] = False,
    json: JsonOption = None,
) -> None:
    """Show what became of every tensor, where the bytes are, and whether all of the model is there.

    Example: mediant inspect smol-60 --tensors --verify
    """
    from mediant.checkpoint.coding_sizes import bytes_by_coding
    from mediant.checkpoint.reader import open_checkpoint
    from mediant.cli._inspect_tables import show
    from mediant.cli._opening import existing

    folder = existing(folder)
    checkpoint = open_checkpoint(folder)
    if verify:
        for name in RichProgress().track(checkpoint.tensors, "Checking hashes"):
            checkpoint.encoding(name)
    figures = report(checkpoint)
    codings = bytes_by_coding(checkpoint, figures["bytes"], RichProgress())
    figures |= {"bytes_by_coding": codings, "verified": verify}
    write_json(json, figures)
    show(table_console(json), figures, checkpoint.plan.tensors, tensors)
    if not figures["coverage"]["complete"]:
        raise CheckpointError(
            f"{folder} is not the whole model: its tensors have {figures['coverage']['weights']} weights, "
            f"the model has {checkpoint.model.weights}."
        )


def report(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns all figures in JSON types."""
    manifest = checkpoint.manifest
    tokens = None if manifest.calibration is None else manifest.calibration.tokens
    entries = [_tensor(entry, tokens) for entry in checkpoint.tensors.values()]
    beside = {f.relative_to(checkpoint.folder).as_posix(): f for f in checkpoint.folder.rglob("*") if f.is_file()}
    sizes = {name: file.stat().st_size for name, file in sorted(beside.items())}
    total, weights = sum(sizes.values()), checkpoint.model.weights
    calibration = manifest.calibration
    return {
        "folder": str(checkpoint.folder),
        "tool_version": manifest.tool_version,
        "model": asdict(manifest.model),
        "recipe": manifest.recipe,
        "seed": manifest.seed,
        "calibration": None if calibration is None else asdict(calibration),
        "target_bytes": manifest.target_bytes,
        "predicted_loss": manifest.predicted_loss,
        "structure": [dict(edit) for edit in manifest.structure],
        "original_weights": manifest.original_weights,
        "bytes": total,
        "bits_per_weight": _bits_per_weight(total, weights),
        "files": sizes,
        "parts": _part_bytes(checkpoint),
        "roles": _roles(entries),
        "coverage": _coverage(checkpoint.tensors.values(), weights, {*manifest.files}, {*sizes}),
        "tensors": entries,
    }


def _tensor(entry: Entry, tokens: int | None) -> dict[str, Any]:
    """Returns the JSON of one tensor; of a matrix also the calibration tokens for each of its inputs."""
    plan, info = entry.plan, entry.info
    stored = plan.nbytes(info, entry.side)
    common = {
        "name": info.name,
        "aliases": list(info.aliases),
        "role": info.role,
        "shape": list(info.shape),
        "weights": info.size,
        "method": plan.method,
        "bytes": stored,
        "bits_per_weight": _bits_per_weight(stored, info.size),
        "certificate": None if entry.certificate is None else asdict(entry.certificate),
    }
    if not plan.plain:
        common |= {"tokens_per_input": None if tokens is None else tokens / max(1, info.matrix_shape[1])}
    if info.role == "expert" and plan.runs:
        common |= {"expert_bits": _expert_bits(info.shape[0], plan.runs)}
    return common | dict(plan.words().fields)


def _expert_bits(experts: int, runs: Iterable[RowSpan]) -> list[float]:
    """Returns the mean bit width of each expert's rows."""
    import numpy as np

    bit_widths = np.repeat([run.bits for run in runs], [run.rows for run in runs])
    found: list[float] = bit_widths.reshape(experts, -1).mean(axis=1).tolist()
    return found


def _part_bytes(checkpoint: Checkpoint) -> dict[str, int]:
    """Returns the bytes by kind of part; the levels of all bit widths are one kind."""
    totals: dict[str, int] = {}
    for name, entry in checkpoint.tensors.items():
        for part in entry.parts:
            slot = checkpoint.slots[f"{name}.{part}"]
            kind = part.partition(".")[0]
            totals[kind] = totals.get(kind, 0) + slot.end - slot.begin
    return totals


def _roles(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns one line for every role and method."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in entries:
        key = entry["role"], entry["method"]
        line = lines.setdefault(key, dict(zip(("role", "method"), key, strict=True)) | dict.fromkeys(SUMS, 0))
        line["tensors"] += 1
        line["weights"] += entry["weights"]
        line["bytes"] += entry["bytes"]
    return [line | {"bits_per_weight": _bits_per_weight(line["bytes"], line["weights"])} for line in lines.values()]


SUMS = ("tensors", "weights", "bytes")


def _coverage(entries: Iterable[Entry], model_weights: int, listed: set[str], present: set[str]) -> dict[str, Any]:
    """Returns the ledger: every weight of the model is quantized, or cast and so untouched by quantization, or
    missing.
    """
    from mediant.checkpoint.manifest import MANIFEST_FILE, PAYLOAD_FILE

    ledger: Counter[str] = Counter()
    for entry in entries:
        ledger[entry.plan.ledger] += entry.info.size
    weights = sum(ledger.values())
    return {
        "complete": weights == model_weights,
        "weights": weights,
        "quantized": ledger["quantized"],
        "pruned": ledger["pruned"],
        "factored": ledger["factored"],
        "untouched": ledger["cast"],
        "missing_files": sorted(listed - present),
        "foreign_files": sorted(present - listed - {MANIFEST_FILE, PAYLOAD_FILE}),
    }


def _bits_per_weight(stored: int, weights: int) -> float | None:
    return 8 * stored / weights if weights else None
