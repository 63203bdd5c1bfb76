"""Structural edits carried out: each stretch of a plan's edits becomes an ordinary model folder in the workspace.

Everything after (statistics, rounding, packing, loading) sees only that folder. A folder is whole or not there, and its
name is the hash of the original and of all edits so far, so a stopped run goes on behind the last one finished.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from safetensors.torch import load, save

from mediant import files
from mediant.methods.structure import Edit, Learner, edit_from
from mediant.models.architecture import load_config
from mediant.models.dense_folder import write_folder
from mediant.models.lazy import LazyTensor
from mediant.models.opening import open_model
from mediant.models.reference import load_reference
from mediant.models.sidecar_files import travelling
from mediant.models.weights import WeightReader
from mediant.pipeline.workspace import Workspace
from mediant.progress import SILENT, Progress
from mediant.values import Model

Edits = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class LearningContext:
    """Where edits are carried out, and what those that learn learn from: the original, and windows of text."""

    teacher: Model
    windows: Callable[[], torch.Tensor]
    workspace: Workspace | None


def apply_edits(original: Model, edits: Edits, context: LearningContext, progress: Progress = SILENT) -> Model:
    """Returns the model after all edits; the original itself where there are none.

    Raises:
        PlanError: an edit does not exist or does not fit the model.
        StorageError: the workspace cannot be written.
    """
    model = original
    for stretch in _stretches(edits):
        done = (*model.edits, *stretch)
        model = _after(model, stretch, done, context, progress)
    return model


def _stretches(edits: Edits) -> Iterator[list[Mapping[str, Any]]]:
    """Neighbouring edits that do not learn together, so that they are written once; those that learn alone."""
    for learns, group in groupby(edits, lambda spec: isinstance(edit_from(spec), Learner)):
        stretch = list(group)
        yield from ([spec] for spec in stretch) if learns else [stretch]


def _after(model: Model, stretch: Edits, done: Edits, context: LearningContext, progress: Progress) -> Model:
    assert context.workspace is not None  # only left out where there are no edits
    key = files.sha256(json.dumps([model.unedited.fingerprint, done], sort_keys=True).encode())[:16]
    folder = context.workspace.folder / f"structure-{key}"
    if not folder.exists():
        with WeightReader(model) as weights:
            config, tensors = _config(model), weights.lazy()
            for spec in stretch:
                edit = edit_from(spec)
                if isinstance(edit, Edit):
                    config, tensors = edit.edited(config, tensors)
                else:
                    tensors |= _learned(edit, model, context, f"learning-{key}", progress)
            beside = dict(travelling(model.path))
            write_folder(folder, config, tensors, beside, progress)
    found = open_model(str(folder), progress)
    return dataclasses.replace(found, name=model.name, original=model.unedited, edits=tuple(done))


def _config(model: Model) -> dict[str, Any]:
    """Returns the whole configuration, with the defaults that `config.json` may leave out."""
    whole: dict[str, Any] = json.loads(load_config(model.path).to_json_string(use_diff=False))
    # Where it was read from, which differs from run to run.
    whole.pop("_name_or_path", None)
    return whole


def _learned(
    edit: Learner, model: Model, context: LearningContext, step: str, progress: Progress
) -> dict[str, LazyTensor]:
    workspace = context.workspace
    assert workspace is not None
    state = load(workspace.read(step)) if workspace.has(step) else None
    student, teacher = load_reference(model), load_reference(context.teacher)
    found = edit.train(
        student, teacher, context.windows(), progress, state, lambda s: workspace.write(step, save(dict(s)))
    )
    types = {t.name: getattr(torch, t.dtype) for t in model.tensors}
    return {name: LazyTensor.of(values.detach().to(types[name]).contiguous()) for name, values in found.items()}
