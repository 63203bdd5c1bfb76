"""compress: analyze, choose, approximate and pack in one, resumable at every step."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mediant import files
from mediant.checkpoint.manifest import Calibration
from mediant.checkpoint.reader import Checkpoint, open_checkpoint
from mediant.checkpoint.writer import check_replaceable, overhead_bytes, write
from mediant.errors import UsageError
from mediant.models.card import model_card
from mediant.models.companions import companion_files
from mediant.models.opening import open_model
from mediant.pipeline.approximate import approximate
from mediant.pipeline.choose import Sizing, measure, units_from_json, units_to_json
from mediant.pipeline.workspace import Workspace
from mediant.planning.recipe import Recipe, load_recipe
from mediant.planning.size import human, parse_size
from mediant.progress import SILENT, Progress
from mediant.statistics import storage
from mediant.statistics.calibration import calibration_tokens
from mediant.statistics.hessian import Accumulator, Hessians
from mediant.statistics.sensitivity import collect
from mediant.values import Model, Plan, Statistics

# Tokens per input below which a Hessian is a poor estimate.
FEW_TOKENS = 16


@dataclass(frozen=True)
class Request:
    """What a person asked for. Exactly one of `size`, `max_kl` and `plan` says how far to compress."""

    model: str
    out: Path
    size: str | None = None
    max_kl: float | None = None
    plan: Path | None = None
    recipe: str = "default"
    calibration: Path | None = None
    seed: int = 0
    resume: bool = True

    def key(self, model: Model) -> dict[str, object]:
        """All that the result depends on."""
        return {
            "model": model.fingerprint,
            "size": self.size,
            "max_kl": self.max_kl,
            "plan": self.plan and files.file_sha256(self.plan),
            "recipe": str(load_recipe(self.recipe)),
            "calibration": self.calibration and files.file_sha256(self.calibration),
            "seed": self.seed,
        }


def compress(request: Request, progress: Progress = SILENT) -> Checkpoint:
    """Compresses a model into the folder `request.out` and returns the checkpoint there.

    Raises:
        MediantError: one sentence about what cannot be done; what was in `out` before is untouched.
    """
    run = begin(request, progress)
    checkpoint = run.pack(run.plan())
    run.workspace.close()
    return checkpoint


def begin(request: Request, progress: Progress = SILENT) -> Compression:
    """Checks a request and opens its model and workspace; the stages of the result then run when they are asked for.

    Raises:
        MediantError: as for `compress`.
    """
    if [request.size, request.max_kl, request.plan].count(None) != 2:
        raise UsageError("Give exactly one of --size, --max-kl and --plan.")
    for given in (request.plan, request.calibration):
        if given is not None and not given.is_file():
            raise UsageError(f"There is no file {given}.")
    check_replaceable(request.out)
    model = open_model(request.model, progress)
    workspace = Workspace.open(request.out, request.key(model), request.resume)
    return Compression(request, model, workspace, progress)


@dataclass(frozen=True)
class Compression:
    """One run: each stage is computed at most once, and read back from the workspace if an earlier run finished it."""

    request: Request
    model: Model
    workspace: Workspace
    progress: Progress

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that was asked for."""
        return load_recipe(self.request.recipe)

    @cached_property
    def statistics(self) -> Statistics:
        """Sensitivities over the calibration text."""

        def compute() -> bytes:
            text = calibration_tokens(self.model, self.request.calibration, self.request.seed, self.progress)
            accumulator = Accumulator() if self.recipe.needs_hessian else None
            found = collect(self.model, text, self.progress, accumulator)
            inputs = {} if accumulator is None else accumulator.store(self.workspace.folder, found.tokens).inputs
            self.workspace.write("hessians.json", json.dumps(inputs).encode())
            return storage.to_bytes(found)

        return storage.from_bytes(self.workspace.step("statistics", compute))

    @cached_property
    def hessians(self) -> Hessians:
        """Hessians of all inputs, where the recipe needs them."""
        tokens = self.statistics.tokens
        inputs = json.loads(self.workspace.read("hessians.json"))
        widest = max((self.model.tensor(name).matrix_shape[1] for name in inputs), default=0)
        if tokens < FEW_TOKENS * widest:
            self.progress.say(
                f"Calibrated on {tokens} tokens; the widest layer has {widest} inputs and wants {FEW_TOKENS * widest}. "
                "More text (--calibration) would help."
            )
        return Hessians(self.workspace.folder, inputs)

    @cached_property
    def sizing(self) -> Sizing:
        """Measured error curves, ready to be spent on."""

        def compute() -> bytes:
            return units_to_json(measure(self.model, self.statistics, self.recipe, self.hessians, self.progress))

        units = units_from_json(self.workspace.step("units", compute))
        return Sizing(self.model, self.recipe, units, self.overhead, self.request.seed)

    @cached_property
    def companions(self) -> dict[str, bytes]:
        """The files that travel with the weights."""
        card = model_card(self.model, self.recipe.name, self.request.seed, self.statistics.source)
        return companion_files(self.model, card)

    @property
    def calibration(self) -> Calibration:
        """Where the statistics came from, for the manifest."""
        s = self.statistics
        return Calibration(source=s.source, tokens=s.tokens, text_fingerprint=s.text_fingerprint)

    def overhead(self, plan: Plan) -> int:
        """Bytes of the output that are not payload."""
        beside = sum(len(content) for content in self.companions.values())
        return beside + overhead_bytes(self.model, plan, self.calibration, self.companions)

    def plan(self) -> Plan:
        """The plan that was given, or the one that meets the asked size or loss."""
        if self.request.plan is not None:
            return Plan.from_json(self.request.plan.read_text(), str(self.request.plan))
        if self.request.size is not None:
            return self.plan_for(parse_size(self.request.size, self.model))
        from mediant.pipeline.search import smallest_within

        return smallest_within(self, float(self.request.max_kl or 0))

    def plan_for(self, target: int) -> Plan:
        """The plan of least predicted loss for a target in bytes."""
        plan = self.sizing.plan(target)
        size = self.sizing.folder_bytes(plan)
        self.progress.say(f"Plan: {human(size)} of {human(target)}, predicted loss {plan.predicted_loss:.4f} nats.")
        return plan

    def pack(self, plan: Plan, out: Path | None = None) -> Checkpoint:
        """Approximates every tensor by the plan and writes the folder."""
        folder = out or self.request.out
        steps = self.workspace.branch(plan.to_json())
        encodings = approximate(self.model, plan, self.statistics, self.hessians, steps, self.progress)
        write(folder, self.model, plan, self.calibration, encodings, self.companions)
        return open_checkpoint(folder)
