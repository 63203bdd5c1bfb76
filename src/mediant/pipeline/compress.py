"""compress: analyze, choose, approximate and pack in one, resumable at every step."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mediant import files
from mediant.checkpoint.manifest import Calibration
from mediant.checkpoint.reader import Checkpoint, open_checkpoint
from mediant.checkpoint.writer import write
from mediant.claims import check_space, claimed
from mediant.forms import Encoding, Form, Side, needs
from mediant.forms.encoding import Hints, foreseen, hints_of
from mediant.forms.parts import as_parts
from mediant.models.companions import parting_words
from mediant.models.opening import open_model
from mediant.pipeline import forecast, refusals
from mediant.pipeline.accounts import Accounts
from mediant.pipeline.approximate import approximate, check_methods, check_original
from mediant.pipeline.calibrate import Calibrator
from mediant.pipeline.choose import measure, outline, units_from_json, units_to_json
from mediant.pipeline.companding import Companding
from mediant.pipeline.one_denominator import OneDenominator, curves_from_json, curves_to_json
from mediant.pipeline.one_denominator import measure as measure_rates
from mediant.pipeline.pruning import Pruner
from mediant.pipeline.ranks import RankSizing, choices_from_json, choices_to_json, measure_ranks
from mediant.pipeline.request import Request
from mediant.pipeline.sizing import Sizing
from mediant.pipeline.structure import School, structured
from mediant.pipeline.train_codes import trained, with_codes
from mediant.pipeline.tune import learned, steps_within, taken_up, tuning_windows
from mediant.pipeline.workspace import Workspace
from mediant.planning.plan import Plan
from mediant.planning.recipe import Recipe, load_recipe
from mediant.planning.size import human, parse_size
from mediant.planning.stages import PARTS
from mediant.progress import SILENT, Progress
from mediant.statistics import storage
from mediant.statistics.calibration import CalibrationText, calibration_tokens, unwritten
from mediant.statistics.hessian import Hessians
from mediant.statistics.sensitivity import collect
from mediant.values import Model, Statistics


def compress(request: Request, progress: Progress = SILENT) -> Checkpoint:
    """Compresses a model into the folder `request.out` and returns the checkpoint there.

    Raises:
        MediantError: one sentence about what cannot be done; what was in `out` before is untouched.
    """
    with begun(request, progress) as run:
        return run.pack(run.plan())


@contextlib.contextmanager
def begun(request: Request, progress: Progress = SILENT, kept: Path | None = None) -> Iterator[Compression]:
    """A run whose stages are computed when they are asked for; whatever can be refused before is refused here.

    The work folder beside the output goes at the end, after an error too. It stays when the run is stopped or killed:
    then the same command goes on from there. Runs of one model and text may share a work folder, beside `kept`, which
    always stays.

    Raises:
        MediantError: as for `compress`.
    """
    request.check()
    with claimed(request.out, progress, request.wait):
        request.check()
        with _begun(request, progress, kept) as run:
            yield run


@contextlib.contextmanager
def _begun(request: Request, progress: Progress, kept: Path | None) -> Iterator[Compression]:
    recipe, given = load_recipe(request.recipe), request.given_plan()
    check_methods(recipe)
    original = open_model(request.model, progress)
    if (left := parting_words(original.path)) is not None:
        progress.say(left)
    if given is not None:
        check_original(given, original)
    run = Compression(request, original, recipe, given, progress, kept)
    with _cleared(run):
        refusals.check(run)
        # Finished tensors wait in the work folder until the output has them all.
        check_space(request.out.resolve().parent, 2 * (run.target() or 0))
    workspace = run.workspace
    if (expected := forecast.of(run)) is not None:
        progress.say(expected)
    try:
        yield run
    except Exception:
        if kept is None:
            workspace.close()
        raise
    if kept is None:
        workspace.close()


@contextlib.contextmanager
def _cleared(run: Compression) -> Iterator[None]:
    """For checks before any work but the edits: what those left goes if a check fails."""
    try:
        yield
    except Exception:
        if run.changes_structure:
            run.workspace.close()
        raise


@dataclass(frozen=True)
class Compression:
    """One run: each stage is computed at most once, and read back from the workspace if an earlier run finished it.

    `original` is the model as it was given, `model` the one that structural edits made of it.
    """

    request: Request
    original: Model
    recipe: Recipe
    given: Plan | None
    progress: Progress
    kept: Path | None = None

    @property
    def changes_structure(self) -> bool:
        """Whether there are structural edits, without finding out which."""
        return bool(self.recipe.structure if self.given is None else self.given.structure)

    @cached_property
    def edits(self) -> tuple[Mapping[str, Any], ...]:
        """Structural edits, in order: those of the plan, or those that the stages of the recipe lead to."""
        if self.given is not None:
            return self.given.structure
        if not self.recipe.structure:
            return ()

        def compute() -> bytes:
            return json.dumps([edit for stage in self.recipe.structure for edit in self._edits(*stage)]).encode()

        found: list[dict[str, Any]] = json.loads(self.workspace.step("edits", compute))
        return tuple(found)

    def _edits(self, name: str, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The edits of one stage; `prune` chooses parts of the original."""
        if name != "prune":
            return [{"edit": name, **fields}]
        pruner = Pruner(
            self.original, lambda: self.original_statistics, lambda: self.text.windows,
            fields.get("score", "influence"), self.seed, fields.get("refit"), self.progress,
        )  # fmt: skip
        return pruner.edits({name: fields[name] for name in PARTS if name in fields})

    @property
    def original_statistics(self) -> Statistics:
        """Sensitivities of the model as it was given."""

        def compute() -> bytes:
            return storage.to_bytes(collect(self.original, self.text, self.progress))

        return storage.from_bytes(self.workspace.step("original-statistics", compute))

    @cached_property
    def model(self) -> Model:
        """The model after all structural edits; the original where there are none."""
        school = School(self.original, lambda: tuning_windows(self), self.workspace if self.edits else None)
        return structured(self.original, self.edits, school, self.progress)

    @property
    def seed(self) -> int:
        """Of everything random."""
        return self.request.seed if self.given is None else self.given.seed

    @property
    def needs_hessian(self) -> bool:
        """Whether any tensor's rounding goes by more than diagonal sensitivities, or may in a run that shares."""
        if self.kept is not None:
            return True
        if self.given is None:
            return self.entropy_coded or self.recipe.needs_hessian
        return "hessian" in needs(self.given.tensors.values())

    @property
    def entropy_coded(self) -> bool:
        """Whether a plan has to be found for entropy coding."""
        return self.request.coding == "entropy"

    @cached_property
    def workspace(self) -> Workspace:
        """Where finished steps are kept; other sizes, plans and recipes share what does not depend on them."""
        key = {
            "model": self.original.fingerprint,
            "structure": self.recipe.structure if self.given is None else self.given.structure,
            "text": [self.described.source, self.described.fingerprint],
            "hessian": self.needs_hessian,
        }
        return Workspace.open((self.kept or self.request.out).resolve(), key, self.request.resume)

    @cached_property
    def text(self) -> CalibrationText:
        """The calibration text."""
        return calibration_tokens(self.original, self.request.calibration, self.seed, self.progress)

    @cached_property
    def described(self) -> CalibrationText:
        """The text, or, where the model has to write it first, a stand-in of the same source and size."""
        writes = self.request.calibration is None and self.original.causal
        return unwritten(self.original, self.seed) if writes else self.text

    @cached_property
    def calibrator(self) -> Calibrator:
        """Measures on the calibration text."""
        d = self.described
        return Calibrator(
            self.model, lambda: self.text, (d.source, d.fingerprint), self.needs_hessian, self.workspace, self.progress
        )

    @property
    def statistics(self) -> Statistics:
        """Sensitivities over the calibration text."""
        return self.calibrator.statistics

    @property
    def hessians(self) -> Hessians:
        """Hessians of all inputs, where they are needed."""
        return self.calibrator.hessians

    @cached_property
    def companding(self) -> Companding:
        """The search for the depths of CVXQ."""
        return Companding(self.model, self.recipe, self.folder_bytes, self.least_bytes, self.hints, self.seed)

    def hints(self, plan: Plan) -> dict[str, Any]:
        """What forms of the plan ask of the whole model, by tensor; none where none asks."""
        found: dict[str, Any] = {}
        for kind in sorted({type(form) for form in plan.tensors.values()}, key=lambda kind: kind.method):
            if (hints := hints_of(kind)) is not None:
                forms = {name: form for name, form in plan.tensors.items() if type(form) is kind}
                found |= self._measured(kind.method, hints, forms)
        return found

    def _measured(self, method: str, hints: Hints, forms: Mapping[str, Form]) -> Mapping[str, Any]:
        step = f"{method}-hints-{files.sha256(hints.key(forms).encode())[:16]}"

        def compute() -> bytes:
            return hints.to_bytes(hints.measure(self, forms))

        if step not in self._hints:
            self._hints.clear()
            self._hints[step] = hints.from_bytes(self.workspace.step(step, compute))
        return self._hints[step]

    @cached_property
    def _hints(self) -> dict[str, Mapping[str, Any]]:
        return {}

    @cached_property
    def sizing(self) -> Sizing | RankSizing:
        """Measured error curves, ready to be spent on; where depths are the same everywhere, nothing is measured."""
        if self.recipe.low_rank:
            return self._rank_sizing()
        if self.recipe.allocation == "same_everywhere":
            return Sizing(self.model, self.recipe, outline(self.model, self.recipe), self.folder_bytes, self.seed)

        def compute() -> bytes:
            return units_to_json(measure(self.model, self.statistics, self.recipe, self.hessians, self.progress))

        step = f"units-{files.sha256(str(self.recipe).encode())[:16]}"
        units = units_from_json(self.workspace.step(step, compute))
        return Sizing(self.model, self.recipe, units, self.folder_bytes, self.seed)

    def _rank_sizing(self) -> RankSizing:
        def compute() -> bytes:
            hessians = self.hessians if self.needs_hessian else None
            return choices_to_json(measure_ranks(self.model, self.statistics, self.recipe, hessians, self.progress))

        step = f"ranks-{files.sha256(str(self.recipe).encode())[:16]}"
        choices = choices_from_json(self.workspace.step(step, compute))
        return RankSizing(self.model, self.recipe, choices, self.folder_bytes, self.seed)

    @cached_property
    def denominator(self) -> OneDenominator:
        """Measured rates, ready for the search for the one denominator."""

        def compute() -> bytes:
            return curves_to_json(measure_rates(self.model, self.statistics, self.hessians, self.progress))

        curves = curves_from_json(self.workspace.step("rates", compute))
        return OneDenominator(
            self.model, curves, self.folder_bytes, self.least_bytes, lambda plan: self.steps(plan).close(),
            self.seed, self.recipe.keep,
        )  # fmt: skip

    @cached_property
    def accounts(self) -> Accounts:
        """What a plan's folder has beside its codes, and how many bytes."""
        return Accounts(self.model, self.described)

    def folder_bytes(self, plan: Plan) -> int:
        """Bytes of the folder that a plan leads to, everything counted, exactly. Coded tensors are coded for it."""
        return self.accounts.folder_bytes(plan, self.sides(plan))

    def least_bytes(self, plan: Plan) -> int:
        """The same without any coded number."""
        return self.accounts.folder_bytes(plan, {})

    def sides(self, plan: Plan) -> dict[str, Side]:
        """Side information that the plan does not tell, by tensor; where nothing else tells it, all are encoded."""
        measured = {name: form for name, form in plan.tensors.items() if form.measured}
        hints = self.hints(plan) if measured else {}
        told = {name: foreseen(form, hints[name]) for name, form in measured.items() if name in hints}
        if told.keys() == measured.keys():
            return told

        def compute() -> bytes:
            found = (e for e in self.encodings(plan) if e.plan.measured)
            said = {e.info.name: [e.plan.side_to_dict(e.side), e.plan.parts(e.info, e.side)] for e in found}
            return json.dumps(said).encode()

        return {
            name: measured[name].side_from_dict(self.model.tensor(name), given, as_parts(parts))
            for name, (given, parts) in json.loads(self.steps(plan).step("sides", compute)).items()
        }

    def target(self) -> int | None:
        """The size that was asked for, in bytes."""
        return None if self.request.size is None else parse_size(self.request.size, self.original)

    def plan(self) -> Plan:
        """The plan that was given, or the one that meets the asked size or loss."""
        target = self.target()
        if self.given is not None:
            return self.given
        if target is not None:
            chosen = self.plan_for(target)
        else:
            from mediant.pipeline.search import smallest_within

            chosen = smallest_within(self, float(self.request.max_kl or 0))
        minutes = self.request.tune
        steps = steps_within(self, chosen, minutes) if minutes else self.recipe.tune_steps
        return dataclasses.replace(chosen, tune_steps=steps)

    def plan_for(self, target: int) -> Plan:
        """The plan of least predicted loss for a target in bytes."""
        companded = self.recipe.method == "compand" and not self.entropy_coded
        plan = (self.companding if companded else self.denominator if self.entropy_coded else self.sizing).plan(target)
        size = self.folder_bytes(plan)
        loss = plan.predicted_loss
        predicted = "" if loss is None else f", predicted loss {loss:.4f} nats per token"
        self.progress.say(f"Plan: {human(size)} of {human(target)}{predicted}.")
        return plan

    def steps(self, plan: Plan) -> Workspace:
        """Where the finished tensors of a plan are kept; it makes no difference to them whether training follows."""
        untrained = dataclasses.replace(plan, tune_steps=0, block_steps=0, code_steps=0)
        return self.workspace.branch(untrained.to_json())

    def pack(self, plan: Plan, out: Path | None = None) -> Checkpoint:
        """Approximates every tensor by the plan, trains and tunes if the plan says so, and writes the folder."""
        folder, s = out or self.request.out, self.statistics
        calibration = Calibration(source=s.source, tokens=s.tokens, text_fingerprint=s.text_fingerprint)
        tuned = learned(self, plan) if plan.tune_steps else None
        sides, encodings = self.sides(plan), self.rounded(plan)
        # Closed also when writing fails, so that no thread goes on with a workspace that is about to go.
        with contextlib.closing(encodings):
            final = encodings if tuned is None else taken_up(encodings, tuned, self.model, s, self.hessians)
            write(folder, self.model, plan, calibration, final, self.accounts.companions(plan), sides)
        return open_checkpoint(folder)

    def rounded(self, plan: Plan) -> Generator[Encoding, None, None]:
        """The same with codes that have learned, if the plan says so."""
        codes = trained(self, plan) if plan.block_steps or plan.code_steps else {}
        encodings = self.encodings(plan)
        with contextlib.closing(encodings):
            yield from with_codes(encodings, codes, self.model, self.statistics, self.hessians)

    def encodings(self, plan: Plan) -> Generator[Encoding, None, None]:
        """All tensors approximated by the plan, before any training."""
        steps, hints = self.steps(plan), self.hints(plan)
        return approximate(self.model, plan, self.statistics, self.hessians, steps, self.progress, hints)
