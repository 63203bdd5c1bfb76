"""prune: a smaller or sparser model without quantization.

Parts that are taken away leave an ordinary model, written as such; zeros in its matrices are worth nothing there, so a
sparse model becomes a checkpoint that stores them as such.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mediant import discovery, files
from mediant.allocation.whole_plan import whole_plan
from mediant.checkpoint.writer import check_replaceable
from mediant.claims import claimed
from mediant.errors import PlanError, UsageError
from mediant.forms import asked_by
from mediant.models.dense_folder import check_free, write_folder
from mediant.models.file_names import of_model
from mediant.models.opening import open_model
from mediant.models.sidecar_files import travelling
from mediant.models.weights import WeightReader
from mediant.pipeline.compress import Compression
from mediant.pipeline.request import CompressRequest
from mediant.planning.plan import Plan
from mediant.planning.recipe import SPARSE_ROLES, Recipe, load_recipe
from mediant.progress import SILENT, Progress
from mediant.values import Model

RECIPE = "prune"
EDITS = "mediant-edits.json"


@dataclass(frozen=True)
class PruneRequest:
    """What a person wants pruned: `parts` of the model (pipeline/choose_units.py), a `pattern` of zeros with its score.

    `refit` says whether what is left of thinned parts makes up for them; None leaves it to the score.
    """

    parts: Mapping[str, Any] = field(default_factory=dict)
    pattern: Mapping[str, Any] = field(default_factory=dict)
    score: str | None = None
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    refit: bool | None = None

    def check(self) -> None:
        """Refuses what is nothing, or names what is not there.

        Raises:
            UsageError, PlanError: with the first fault.
        """
        if not self.parts and not self.pattern:
            raise UsageError("Say what to prune: --layers, --neurons, --heads, --hidden, --sparsity or --pattern.")
        if self.pattern:
            discovery.make("pruning.patterns", self.pattern)
            discovery.make("pruning.scores", self.weight_score)

    @property
    def weight_score(self) -> dict[str, str]:
        """The score of single weights."""
        return {"name": self.score or "sparsegpt"}


def prune(request: CompressRequest, wanted: PruneRequest, progress: Progress = SILENT) -> Path:
    """Writes the pruned model to `request.out`; a stopped run goes on where it was.

    Raises:
        MediantError: one sentence about what cannot be done; what was in `out` before is untouched.
    """
    wanted.check()
    free = check_replaceable if wanted.pattern else check_free
    free(request.out)
    with claimed(request.out, progress, request.wait):
        free(request.out)
        return _pruned(request, wanted, progress)


def _pruned(request: CompressRequest, wanted: PruneRequest, progress: Progress) -> Path:
    stages = [["prune", {**wanted.parts, "score": _part_score(wanted), "refit": wanted.refit}]] if wanted.parts else []
    recipe = dataclasses.replace(
        load_recipe("nearest"),
        name=RECIPE,
        structure=tuple(stages),
        pattern=wanted.pattern,
        score=wanted.weight_score if wanted.pattern else {},
    )
    run = Compression(request, open_model(request.model, progress), recipe, None, progress)
    with _closing(run):
        if wanted.pattern:
            plan = _plan(run.model, wanted, request.seed)
            # A pattern that does not fit some matrix has no size; found here, before anything is measured.
            run.folder_bytes(plan)
            run.pack(plan)
        else:
            _write(run.model, request.out, progress)
    return request.out


def _part_score(wanted: PruneRequest) -> str:
    return wanted.score if wanted.score in ("wanda", "magnitude", "random") else "influence"


@contextlib.contextmanager
def _closing(run: Compression) -> Iterator[None]:
    """The work folder goes at the end and after an error, but not when the run is stopped."""
    try:
        yield
    except Exception:
        run.workspace.close()
        raise
    run.workspace.close()


def _plan(model: Model, wanted: PruneRequest, seed: int) -> Plan:
    sparse = asked_by("pattern").from_dict(
        {"dtype": wanted.dtype, "pattern": wanted.pattern, "score": wanted.weight_score}
    )
    chosen = {t.name: sparse for t in model.tensors if t.role in SPARSE_ROLES and t.layout != "none"}
    if not chosen:
        raise PlanError(f"{model.name} has no linear layers that could be made sparse.")
    return whole_plan(model, Recipe(RECIPE, "", keep=wanted.dtype, bias_correction=False), chosen, seed, None)


def _write(model: Model, out: Path, progress: Progress) -> None:
    """Writes the edited model as an ordinary folder, with what was done to it beside."""
    record = {"original": model.unedited.name, "fingerprint": model.unedited.fingerprint, "structure": model.edits}
    beside: dict[str, bytes | Path] = dict(travelling(model.path))
    beside[EDITS] = (json.dumps(record, indent=1) + "\n").encode()
    with WeightReader(model) as weights:
        write_folder(out, model.config, of_model(weights.lazy(), model), beside, progress)
    progress.say(
        f"{model.weights:,} of {model.unedited.weights:,} weights are left, {files.folder_bytes(out):,} bytes."
    )
