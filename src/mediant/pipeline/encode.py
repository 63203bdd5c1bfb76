"""Encodes a model by a plan, one tensor at a time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Generator, Mapping
from functools import partial
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from mediant.errors import PlanError
from mediant.forms import Encoding, Form
from mediant.forms.encoding import Original, encode, encode_in_pieces
from mediant.models.matrix_form import to_matrix
from mediant.models.weights import WeightReader
from mediant.pipeline.run import Run
from mediant.pipeline.workspace import Workspace
from mediant.planning.plan import Plan
from mediant.progress import SILENT, Progress
from mediant.statistics.hessian import Hessians
from mediant.values import Array, Certificate, Model, Statistics, TensorInfo
from mediant.workers import AHEAD, FEW, compute_alone, ordered

Means = Mapping[str, Array]


def check(plan: Plan, model: Model) -> None:
    """Refuses a plan that was made for another model, does not name every tensor, or does not fit one.

    Raises:
        PlanError: with the first difference.
    """
    check_original(plan, model.unedited)
    if plan.structure != model.edits:
        raise PlanError("The plan has structural edits that the model has not been through.")
    ours = {t.name for t in model.tensors}
    for name in sorted(ours ^ set(plan.tensors)):
        problem = "does not say what becomes of" if name in ours else "names an unknown tensor,"
        raise PlanError(f"The plan {problem} {name!r}.")
    for info in model.tensors:
        plan.tensors[info.name].check(info)


def check_original(plan: Plan, model: Model) -> None:
    """Refuses a plan that was made for another model than this one, which no edit has touched.

    Raises:
        PlanError: with both fingerprints.
    """
    if plan.model_fingerprint != model.fingerprint:
        raise PlanError(
            f"The plan was made for another model (fingerprint {plan.model_fingerprint[:12]}); "
            f"this one has {model.fingerprint[:12]}."
        )


def encode_all(
    model: Model,
    plan: Plan,
    statistics: Statistics | None,
    hessians: Hessians | None = None,
    workspace: Workspace | None = None,
    progress: Progress = SILENT,
    hints: Mapping[str, Any] | None = None,
) -> Generator[Encoding, None, None]:
    """Encodings of all tensors, in model order; `hints` are what forms ask of the whole model, by tensor.

    With a workspace, every finished tensor is kept there and not computed again. Matrices come out of
    several threads in order; each is computed from its own weights, so the result does not depend on the threads.
    """
    check(plan, model)
    matrices = [t for t in model.tensors if not plan.tensors[t.name].plain]
    with WeightReader(model) as weights:

        def encoded(info: TensorInfo) -> Encoding | None:
            """Returns the encoding, or None where the workspace has it."""
            if workspace is not None and workspace.has(_step(info)):
                return None
            hessian = None if hessians is None else hessians.of(info.name)
            local = None if statistics is None else statistics.layers.get(info.name)
            encoding = encode_in_pieces(
                info, plan.tensors[info.name], partial(weights.rows, info.name), local, hessian
            ) or encode(
                Original(info, weights.read(info.name), local, hessian),
                plan.tensors[info.name],
                (hints or {}).get(info.name),
            )
            if workspace is None:
                return encoding
            workspace.write(_step(info), _stored(encoding))
            return None

        # What the workspace keeps takes no memory while it waits for an embedding, the largest matrix and the first.
        work = ordered(encoded, matrices, compute_alone, FEW if workspace is None else AHEAD)
        rounded = progress.track(work, "Rounding weights", len(matrices))
        shifts: dict[str, Array] = {}
        for info in model.tensors:
            if not plan.tensors[info.name].plain:
                encoding = next(rounded) or _restored(info, plan.tensors[info.name], workspace)
                # A module's weight stands before its bias in every torch model.
                shifts |= _shift(encoding, weights, statistics, plan)
                yield encoding
            else:
                values = weights.read(info.name)
                if info.name in shifts:
                    values = (values.astype(np.float64) + shifts[info.name]).astype(np.float32)
                yield encode(Original(info, values), plan.tensors[info.name])


def encodings(run: Run, plan: Plan) -> Generator[Encoding, None, None]:
    """Encodes all tensors of a run by a plan, before anything that follows rounding."""
    steps, hints = run.steps(plan), run.hints(plan)
    return encode_all(run.model, plan, run.statistics, run.hessians, steps, run.progress, hints)


def _shift(encoding: Encoding, weights: WeightReader, statistics: Statistics | None, plan: Plan) -> dict[str, Array]:
    """Computes the correction of a quantized layer's bias, (W - W^) E[x], by the bias's name.

    First-order correction of Nagel et al. 2019 (arXiv 1906.04721, section 4.2).
    """
    info = encoding.info
    bias = f"{info.module}.bias"
    local = None if statistics is None else statistics.layers.get(info.name)
    if local is None or bias not in plan.tensors or not plan.tensors[bias].bias_correction:
        return {}
    difference = to_matrix(weights.read(info.name), info) - to_matrix(encoding.decode(), info)
    return {bias: (difference.astype(np.float64) * local.input_mean).sum(axis=1)}


def _step(info: TensorInfo) -> str:
    return f"{info.name}.safetensors"


def _stored(encoding: Encoding) -> bytes:
    certificate = None if encoding.certificate is None else dataclasses.asdict(encoding.certificate)
    data: bytes = save(dict(encoding.parts), {"certificate": json.dumps(certificate)})
    return data


def _restored(info: TensorInfo, plan: Form, workspace: Workspace | None) -> Encoding:
    assert workspace is not None  # only it keeps encodings
    data = workspace.read(_step(info))
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    certificate = json.loads(metadata["certificate"])
    return Encoding(info, plan, load(data), None if certificate is None else Certificate(**certificate))
