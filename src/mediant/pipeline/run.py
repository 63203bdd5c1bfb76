"""What all stages of one compression share: the request, the model, and what was measured on it. It decides nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mediant import files
from mediant.allocation import strategy_of
from mediant.checkpoint.manifest import Calibration
from mediant.forms import Form, needs
from mediant.forms.encoding import Hints, hints_of
from mediant.models.sidecar_files import sidecar_files
from mediant.pipeline.apply_edits import LearningContext, apply_edits
from mediant.pipeline.calibrate import Calibrator
from mediant.pipeline.choose_units import Pruner
from mediant.pipeline.request import CompressRequest
from mediant.pipeline.workspace import Workspace
from mediant.planning.plan import Plan
from mediant.planning.recipe import Recipe
from mediant.planning.size import parse_size
from mediant.planning.stages import PARTS
from mediant.progress import Progress
from mediant.statistics import storage
from mediant.statistics.calibration_text import CalibrationText, calibration_tokens, text_to_learn, unwritten
from mediant.statistics.hessian import Hessians
from mediant.statistics.sensitivity import collect
from mediant.values import Model, Statistics


@dataclass(frozen=True)
class Run:
    """One run: each stage is computed at most once, and read back from the workspace if an earlier run finished it.

    `original` is the model as it was given, `model` the one that structural edits made of it.
    """

    request: CompressRequest
    original: Model
    recipe: Recipe
    given: Plan | None
    progress: Progress
    kept: Path | None = None

    @property
    def changes_structure(self) -> bool:
        """True if there are structural edits; does not find out which."""
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
        """Returns the edits of one stage; `prune` chooses parts of the original."""
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
        context = LearningContext(self.original, lambda: self.learning_windows, self.workspace if self.edits else None)
        return apply_edits(self.original, self.edits, context, self.progress)

    @property
    def seed(self) -> int:
        """Of everything random."""
        return self.request.seed if self.given is None else self.given.seed

    @property
    def needs_hessian(self) -> bool:
        """True if any tensor's rounding goes by more than diagonal sensitivities, or may in a run that shares."""
        if self.kept is not None:
            return True
        if self.given is None:
            return "hessian" in strategy_of(self.recipe).needs(self.recipe)
        return "hessian" in needs(self.given.tensors.values())

    @cached_property
    def workspace(self) -> Workspace:
        """The folder of finished steps; other sizes, plans and recipes share what does not depend on them."""
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
    def learning_windows(self) -> torch.Tensor:
        """Text that stages and edits learn from, [windows, tokens]."""
        return text_to_learn(self.original, self.request.calibration, self.seed, self.progress)

    @cached_property
    def described(self) -> CalibrationText:
        """The text, or, where the model has to write it first, a stand-in of the same source and size; or no tokens."""
        if not self.calibrated:
            return CalibrationText(torch.zeros((0, 0), dtype=torch.int64), "none, weights alone")
        writes = self.request.calibration is None and self.original.causal
        return unwritten(self.original, self.seed) if writes else self.text

    @cached_property
    def sidecar_files(self) -> dict[str, bytes]:
        """Files of the original that travel with the weights, by name."""
        return sidecar_files(self.model, "")

    @cached_property
    def calibrator(self) -> Calibrator:
        """Measures on the calibration text."""
        d = self.described
        return Calibrator(
            self.model, lambda: self.text, (d.source, d.fingerprint), self.needs_hessian, self.workspace, self.progress
        )

    @property
    def calibrated(self) -> bool:
        """True if any text is read; else only weights are looked at."""
        return self.recipe.calibrated if self.given is None else self.given.calibrated

    @property
    def statistics(self) -> Statistics:
        """Sensitivities over the calibration text; of no tensor where none is read."""
        return self.calibrator.statistics if self.calibrated else Statistics({}, self.model.fingerprint, "", 0, "")

    @property
    def hessians(self) -> Hessians:
        """Hessians of all inputs, where they are needed."""
        return self.calibrator.hessians if self.calibrated else Hessians(self.workspace.folder)

    @property
    def calibration(self) -> Calibration | None:
        """The checkpoint's account of the text; None where none is read."""
        text = self.described
        return Calibration(text.source, text.tokens, text.fingerprint) if self.calibrated else None

    def hints(self, plan: Plan) -> dict[str, Any]:
        """Measures what forms of the plan ask of the whole model, by tensor; empty where none asks."""
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

    def target(self) -> int | None:
        """Returns the size that was asked for, in bytes."""
        return None if self.request.size is None else parse_size(self.request.size, self.original)

    def steps(self, plan: Plan) -> Workspace:
        """Returns the folder of a plan's finished tensors, which does not depend on what follows rounding."""
        rounded = dataclasses.replace(plan, tune_steps=0, block_steps=0, code_steps=0, after={})
        return self.workspace.branch(rounded.to_json())
