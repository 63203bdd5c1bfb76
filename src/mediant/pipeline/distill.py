"""distill: a student in a folder learns from its teacher, and becomes an ordinary Hugging Face folder again."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from mediant import files
from mediant.checkpoint.manifest import MANIFEST_FILE
from mediant.claims import claimed
from mediant.errors import ModelError, StorageError, TextError, UsageError
from mediant.methods.structure.distill import held_out, method_of
from mediant.methods.training._descent import Course
from mediant.methods.training.distillation import Distillation, Distiller
from mediant.models.dense_folder import write_folder
from mediant.models.file_names import as_in_files
from mediant.models.folder import read_config
from mediant.models.lazy import LazyTensor
from mediant.models.opening import open_model, positions
from mediant.models.reference import load_reference
from mediant.models.sidecar_files import travelling
from mediant.models.stored import stored_tensors
from mediant.pipeline.workspace import Workspace
from mediant.progress import SILENT, Progress
from mediant.runtime.loading import load as load_checkpoint
from mediant.statistics.calibration_text import calibration_tokens, sampled_windows
from mediant.values import Model

HISTORY = "distillation.json"
WINDOW, MOST_WINDOWS, WRITTEN = 256, 4096, 128
TRIAL = 2
SECONDS, KEEP_SECONDS = 60, 90
MOST_STEPS = 1_000_000
MOST_BATCH = 1024


@dataclass(frozen=True)
class DistillRequest:
    """What a person asked for: minutes or steps, not both; the text, or none for the teacher's own."""

    student: str
    teacher: str
    out: Path
    minutes: float | None = None
    steps: int | None = None
    text: Path | None = None
    method: Distillation = field(default_factory=Distillation)
    batch: int = 2
    seed: int = 0
    resume: bool = True
    wait: bool = True

    def check(self) -> None:
        """Refuses what contradicts itself or would write over something.

        Raises:
            UsageError, PlanError, StorageError: with the first fault.
        """
        if (self.minutes is None) == (self.steps is None):
            raise UsageError("Give exactly one of --minutes and --steps.")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise UsageError(f"--minutes is {self.minutes}; it takes a positive number.")
        if self.steps is not None and not 1 <= self.steps <= MOST_STEPS:
            raise UsageError(f"--steps is {self.steps}; it takes a whole number from 1 to {MOST_STEPS}.")
        if not 1 <= self.batch <= MOST_BATCH:
            raise UsageError(f"--batch is {self.batch}; it takes a whole number from 1 to {MOST_BATCH}.")
        method_of(*dataclasses.astuple(self.method))
        if self.out.exists() and not (self.out.is_dir() and (not any(self.out.iterdir()) or self._ours())):
            raise StorageError(f"{self.out} is not empty and not a distilled model; name a new folder.")

    def _ours(self) -> bool:
        return (self.out / HISTORY).is_file()


@dataclass(frozen=True)
class DistillResult:
    """What distilling did: KL in nats per token on text that was not learned from, and the loss of every step."""

    steps: int
    kl_before: float
    kl_after: float
    losses: tuple[float, ...]

    @property
    def kept(self) -> bool:
        """True if the student was changed."""
        return self.kl_after < self.kl_before


def distill(request: DistillRequest, progress: Progress = SILENT) -> DistillResult:
    """Teaches the student and writes it to `request.out`, with `distillation.json` beside the weights.

    A student that did not improve is written as it was. A run that is stopped goes on where it was.

    Raises:
        MediantError: one sentence about what cannot be done; what was in `out` before is untouched.
    """
    request.check()
    with claimed(request.out, progress, request.wait):
        request.check()
        return _distilled(request, progress)


def _distilled(request: DistillRequest, progress: Progress) -> DistillResult:
    teacher = open_model(request.teacher, progress)
    folder = Path(request.student)
    compressed = (folder / MANIFEST_FILE).is_file()
    student = None if compressed else open_model(request.student, progress)
    network = load_checkpoint(folder) if student is None else load_reference(student)
    _check_pair(network, teacher)
    run = _Run(request, teacher, network, _workspace(request, teacher, student), progress)
    try:
        found = run.learn()
        run.write(found, student)
    except Exception:
        run.workspace.close()
        raise
    run.workspace.close()
    return found


def _check_pair(network: Any, teacher: Model) -> None:
    vocabularies = [c.get("vocab_size") for c in (network.config.get_text_config().to_dict(), _text(teacher.config))]
    if not teacher.causal or network.get_output_embeddings() is None:
        raise ModelError("Distillation is for models that predict tokens.")
    if vocabularies[0] != vocabularies[1]:
        raise ModelError(
            f"The student knows {vocabularies[0]} tokens and the teacher {vocabularies[1]}; both must agree."
        )


def _text(config: Any) -> dict[str, Any]:
    return {**config, **config.get("text_config", {})}


def _workspace(request: DistillRequest, teacher: Model, student: Model | None) -> Workspace:
    """Returns the kept steps of the same lesson: of models and texts with the same content, wherever they lie."""
    # A manifest has the hashes of all parts.
    own = files.file_sha256(Path(request.student) / MANIFEST_FILE) if student is None else student.fingerprint
    text = files.file_sha256(request.text) if request.text is not None and request.text.is_file() else None
    asked = dataclasses.asdict(request) | {"out": "", "student": own, "teacher": teacher.fingerprint, "resume": True}
    asked |= {"text": text, "wait": True}
    return Workspace.open(request.out.resolve(), {name: str(value) for name, value in asked.items()}, request.resume)


@dataclass(frozen=True)
class _Run:
    request: DistillRequest
    teacher: Model
    network: Any
    workspace: Workspace
    progress: Progress

    def learn(self) -> DistillResult:
        """Takes all steps and judges."""
        windows = self._windows()
        held = held_out(len(windows))
        original = {name: value.clone() for name, value in self.network.state_dict().items()}
        distiller = Distiller(self.network, load_reference(self.teacher), self.request.method)
        before = distiller.divergence(windows[held])
        steps, keep_every = self._steps(distiller, windows[~held], original)
        course = Course(steps, self.request.batch, self.request.seed, keep_every)
        state = load(self.workspace.read("state")) if self.workspace.has("state") else None
        distiller.run(windows[~held], course, self.progress, state, lambda s: self.workspace.write("state", save(s)))
        after = distiller.divergence(windows[held])
        self.progress.say(f"Distilled in {steps} steps: KL {before:.4f} -> {after:.4f} on text not learned from.")
        if after >= before:
            self.progress.say("That is no better, so the student stays as it was.")
            self.network.load_state_dict(original)
        return DistillResult(steps, before, after, tuple(distiller.losses))

    def _windows(self) -> torch.Tensor:
        length = min(n for n in (WINDOW, positions(self.teacher), _positions(self.network)) if n)
        if self.request.text is None:
            return sampled_windows(self.teacher, WRITTEN, length, self.request.seed, "tuning", self.progress)
        seed, file = self.request.seed, self.request.text
        windows = calibration_tokens(self.teacher, file, seed, self.progress, MOST_WINDOWS, length).windows
        if len(windows) < 2:
            raise TextError(
                f"The text {file} has {len(windows)} window of {length} tokens; distilling needs at least 2."
            )
        return windows

    def _steps(self, distiller: Distiller, windows: torch.Tensor, original: dict[str, torch.Tensor]) -> tuple[int, int]:
        """Finds the number of steps, and of steps between two states kept, by a trial; then restores the weights."""

        def compute() -> bytes:
            course = Course(TRIAL, self.request.batch, self.request.seed, TRIAL + 1)
            begun = time.monotonic()
            Distiller(self.network, distiller.teacher, self.request.method).run(windows, course)
            pace = (time.monotonic() - begun) / TRIAL
            self.network.load_state_dict(original)
            return json.dumps(pace).encode()

        pace = float(json.loads(self.workspace.step("pace", compute)))
        fitting = max(1, math.floor(SECONDS * (self.request.minutes or 0) / pace))
        return self.request.steps or min(MOST_STEPS, fitting), max(1, round(KEEP_SECONDS / pace))

    def write(self, found: DistillResult, student: Model | None) -> None:
        """Writes the student as an ordinary folder, each weight in the type it was stored in."""
        folder = Path(self.request.student) if student is None else student.path
        config = {k: v for k, v in read_config(folder).items() if k != "quantization_config"}
        state = self.network.state_dict()
        types = (
            {} if student is None else {t.name: getattr(torch, t.dtype.removeprefix("torch.")) for t in student.tensors}
        )
        names = [n for n, _ in self.network.named_parameters()] if student is None else list(types)
        tensors = {n: LazyTensor.of(state[n].to(types.get(n, torch.float16)).contiguous()) for n in names}
        beside: dict[str, bytes | Path] = dict(travelling(folder))
        history = dataclasses.asdict(found) | {"teacher": self.teacher.name, "seed": self.request.seed}
        beside[HISTORY] = (json.dumps(history | dataclasses.asdict(self.request.method)) + "\n").encode()
        keys = None if student is None else stored_tensors(student.path)
        write_folder(self.request.out, config, as_in_files(tensors, self.network, keys), beside, self.progress)


def _positions(network: Any) -> int | None:
    config = network.config.get_text_config().to_dict()
    names = ("max_position_embeddings", "n_positions", "max_sequence_length")
    return next((int(config[name]) for name in names if config.get(name)), None)
