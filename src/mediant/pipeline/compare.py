"""compare: the same model by several recipes at several sizes, judged on the same windows of two texts.

Calibration is done once, for all recipes, with Hessians, so that none sees other text or other statistics. What is
finished is kept in the output folder: the compressed models, what making each took, and every score. The same question
asked again goes on from there; further recipes, sizes or windows only add what is missing.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from mediant import files
from mediant.checkpoint.manifest import MANIFEST_FILE
from mediant.checkpoint.reader import open_checkpoint
from mediant.claims import claimed
from mediant.errors import SizeError, UsageError
from mediant.evaluation import scoring
from mediant.evaluation.activations import LEAST_BITS, MOST_BITS, round_inputs
from mediant.evaluation.memory import forget_peak, peak_bytes
from mediant.evaluation.scoring import Candidate
from mediant.kernels.bfloat16 import to_float32
from mediant.models.opening import open_model
from mediant.pipeline.compress import begun
from mediant.pipeline.preflight import check_methods
from mediant.pipeline.request import CompressRequest
from mediant.planning.recipe import load_recipe
from mediant.progress import SILENT, Progress
from mediant.runtime.loading import load
from mediant.statistics.calibration_text import read_text
from mediant.values import Model

# Compressed models that are in memory at once, beside the original.
TOGETHER = 3
STEPS = "calibration"


@dataclass(frozen=True)
class CompareRequest:
    """What is to be compared. `text` and `second` are files, or None for text that the model writes.

    With `activation_bits`, the inputs of linear layers are rounded too (evaluation/activations.py); 0 leaves them.
    """

    model: str
    out: Path
    sizes: tuple[str, ...]
    recipes: tuple[str, ...]
    calibration: Path | None = None
    text: Path | None = None
    second: Path | None = None
    windows: int = 20
    window: int = 512
    seed: int = 0
    activation_bits: int = 0
    wait: bool = True

    def check(self) -> None:
        """Refuses what no table could answer.

        Raises:
            UsageError, PlanError, TextError: the first fault.
        """
        if not self.sizes or not self.recipes:
            raise UsageError("Name at least one --size and one recipe.")
        for given in (self.sizes, self.recipes):
            if len(set(given)) < len(given):
                raise UsageError(f"{', '.join(given)} names one of them twice.")
        if self.activation_bits and not LEAST_BITS <= self.activation_bits <= MOST_BITS:
            raise UsageError(f"--activation-bits is {self.activation_bits}; it takes 0 or {LEAST_BITS} to {MOST_BITS}.")
        for recipe in self.recipes:
            check_methods(load_recipe(recipe))
        for file in (self.calibration, self.text, self.second):
            if file is not None:
                read_text(file)


@dataclass(frozen=True)
class Row:
    """One recipe at one size: what it took, and its scores by text; or why there is none."""

    recipe: str
    size: str
    bytes: int = 0
    bits_per_weight: float = 0.0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    refusal: str = ""
    scores: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Table:
    """The answer. `calibration_seconds` were spent once, for all rows, and count in none."""

    model: str
    fingerprint: str
    causal: bool
    weights: int
    calibration: str
    calibration_seconds: float
    seed: int
    activation_bits: int
    rows: tuple[Row, ...]


def compare(request: CompareRequest, progress: Progress = SILENT) -> Table:
    """Compresses, judges, and gives the table.

    Raises:
        MediantError: one sentence about what cannot be done; what was finished before stays.
    """
    request.check()
    with claimed(request.out, progress, request.wait):
        return _answer(request, progress)


def _answer(request: CompareRequest, progress: Progress) -> Table:
    work = _Work(request, open_model(request.model, progress), progress)
    for text in (request.text, request.second):
        if text is not None and work.model.causal:
            # Refused before hours of work if it cannot be scored.
            scoring.scored_windows(work.model, text, request.windows, request.window, request.seed, progress)
    rows = [work.make(recipe, size) for size in request.sizes for recipe in request.recipes]
    made = [row for row in rows if not row.refusal]
    scores = _Scores(work, progress).of([work.folder(row.recipe, row.size) for row in made])
    judged = {(row.recipe, row.size): found for row, found in zip(made, scores, strict=True)}
    rows = [dataclasses.replace(row, scores=judged.get((row.recipe, row.size), ())) for row in rows]
    source, seconds = work.calibrated
    model = work.model
    return Table(
        request.model,
        model.fingerprint,
        model.causal,
        model.weights,
        source,
        seconds,
        request.seed,
        request.activation_bits,
        tuple(rows),
    )


@dataclass(frozen=True)
class _Work:
    request: CompareRequest
    model: Model
    progress: Progress

    def folder(self, recipe: str, size: str) -> Path:
        """Folder of the model by a recipe at a size."""
        return self.request.out / re.sub(r"[^\w.-]+", "-", f"{Path(recipe).stem}-{size}")

    def make(self, recipe: str, size: str) -> Row:
        """Returns the row of a compressed model, which is made if it is not there yet; without scores."""
        folder = self.folder(recipe, size)
        request = CompressRequest(
            str(self.request.model), folder, size, recipe=recipe, calibration=self.request.calibration,
            seed=self.request.seed,
        )  # fmt: skip
        record = folder.with_name(f"{folder.name}.json")
        try:
            with begun(request, self.progress, self.request.out / STEPS) as run:
                described = [run.described.source, run.described.fingerprint]
                key = files.sha256(
                    repr([run.model.fingerprint, run.recipe, run.target(), run.seed, described]).encode()
                )
                if not ((folder / MANIFEST_FILE).is_file() and _read(record).get("key") == key):
                    self.progress.say(f"{recipe}, {size}")
                    self._calibrate(run)
                    files.write(record, json.dumps({"key": key, **self._make(run)}).encode())
        except SizeError as problem:
            return Row(recipe, size, refusal=str(problem))
        count = files.folder_bytes(folder)
        made = {name: value for name, value in _read(record).items() if name != "key"}
        return Row(recipe, size, count, 8 * count / self.model.weights, **made)

    def _calibrate(self, run: Any) -> None:
        begin = time.monotonic()
        fresh = not run.workspace.has("statistics")
        source = run.statistics.source if run.calibrated else run.described.source
        if fresh:
            figures = {"source": source, "seconds": time.monotonic() - begin}
            files.write(self._calibration_record, json.dumps(figures).encode())

    def _make(self, run: Any) -> dict[str, float]:
        forget_peak()
        begin = time.monotonic()
        plan = run.plan()
        run.pack(plan)
        run.steps(plan).close()
        return {"seconds": time.monotonic() - begin, "peak_memory_bytes": peak_bytes()}

    @property
    def _calibration_record(self) -> Path:
        return self.request.out / "calibration.json"

    @property
    def calibrated(self) -> tuple[str, float]:
        """The source of the calibration text, and the seconds that reading it took."""
        found = _read(self._calibration_record)
        return str(found.get("source", "")), float(found.get("seconds", 0.0))


def _read(file: Path) -> dict[str, Any]:
    """Returns a JSON object from a file of our own, or an empty one."""
    if not file.is_file():
        return {}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class _Scores:
    """Scores of compressed models on both texts; those that are known are not measured again."""

    work: _Work
    progress: Progress

    @property
    def _file(self) -> Path:
        return self.work.request.out / "scores.json"

    @cached_property
    def _texts(self) -> list[Path | None]:
        q = self.work.request
        return [q.text] if q.text is None and q.second is None else [q.text, q.second]

    def of(self, folders: Sequence[Path]) -> list[tuple[dict[str, Any], ...]]:
        """For each folder its scorecards, one a text."""
        for text in self._texts:
            known = _read(self._file)
            missing = [folder for folder in folders if self._key(folder, text) not in known]
            for group in _groups(missing, TOGETHER):
                for folder, card in zip(group, self._measured(group, text), strict=True):
                    known[self._key(folder, text)] = card
                files.write(self._file, json.dumps(known, indent=1).encode())
        known = _read(self._file)
        return [tuple(known[self._key(folder, text)] for text in self._texts) for folder in folders]

    def _key(self, folder: Path, text: Path | None) -> str:
        q = self.work.request
        content = "" if text is None else files.file_sha256(text)
        parts = [files.file_sha256(folder / MANIFEST_FILE), content, q.windows, q.window, q.seed]
        parts += [q.activation_bits] if q.activation_bits else []
        return f"{folder.name} {files.sha256(repr(parts).encode())[:16]}"

    def _measured(self, folders: Sequence[Path], text: Path | None) -> list[dict[str, Any]]:
        q, model = self.work.request, self.work.model
        candidates = [
            Candidate(partial(_running, folder, q.activation_bits), files.folder_bytes(folder), model.weights)
            for folder in folders
        ]
        options = (model, text, q.windows, q.window, q.seed, self.progress)
        if model.causal:
            return [dataclasses.asdict(m.scorecard) for m in scoring.evaluate_all(candidates, *options)]
        return [dataclasses.asdict(scoring.evaluate_encoder(c, *options)) for c in candidates]


def _running(folder: Path, bits: int) -> Any:
    """Returns the network of a compressed model; with `bits`, one that rounds the inputs of its linear layers."""
    network = load(folder)
    if bits:
        checkpoint = open_checkpoint(folder)
        balanced = [name for name, entry in checkpoint.tensors.items() if "column_scales" in entry.parts]
        parts = {name: checkpoint.encoding(name).parts["column_scales"] for name in balanced}
        round_inputs(network, bits, {name: torch.from_numpy(to_float32(part)) for name, part in parts.items()})
    return network


def _groups(items: Sequence[Path], size: int) -> Iterator[list[Path]]:
    left = iter(items)
    while group := list(islice(left, size)):
        yield group
