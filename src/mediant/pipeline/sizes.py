"""The exact size of a plan's folder before it is written: everything counted, to the byte."""

from __future__ import annotations

import json
from collections.abc import Mapping

from mediant.checkpoint.writer import overhead_bytes
from mediant.forms import Side
from mediant.forms.encoding import foreseen
from mediant.forms.parts import as_parts
from mediant.models.card import model_card
from mediant.models.sidecar_files import CARD
from mediant.pipeline.encode import encodings
from mediant.pipeline.run import Run
from mediant.planning.plan import Plan


def folder_bytes(run: Run, plan: Plan) -> int:
    """Counts the bytes of the folder that a plan leads to. Coded tensors are coded for it.

    Raises:
        PlanError: the plan does not fit the model.
    """
    return _counted(run, plan, sides(run, plan))


def least_bytes(run: Run, plan: Plan) -> int:
    """Counts the bytes of the folder that a plan leads to, but for those of coded numbers."""
    return _counted(run, plan, {})


def sidecar_files(run: Run, plan: Plan) -> dict[str, bytes]:
    """Returns the files that travel with the weights, by name."""
    card = model_card(run.model, plan.recipe, plan.seed, run.described.source)
    return run.sidecar_files | {CARD: card.encode()}


def sides(run: Run, plan: Plan) -> dict[str, Side]:
    """Finds side information that the plan does not tell, by tensor; where nothing else tells it, all are encoded."""
    measured = {name: form for name, form in plan.tensors.items() if form.measured}
    hints = run.hints(plan) if measured else {}
    told = {name: foreseen(form, hints[name]) for name, form in measured.items() if name in hints}
    if told.keys() == measured.keys():
        return told

    def compute() -> bytes:
        found = (e for e in encodings(run, plan) if e.plan.measured)
        said = {e.info.name: [e.plan.side_to_dict(e.side), e.plan.parts(e.info, e.side)] for e in found}
        return json.dumps(said).encode()

    return {
        name: measured[name].side_from_dict(run.model.tensor(name), given, as_parts(parts))
        for name, (given, parts) in json.loads(run.steps(plan).step("sides", compute)).items()
    }


def _counted(run: Run, plan: Plan, told: Mapping[str, Side]) -> int:
    beside = sidecar_files(run, plan)
    payload = sum(plan.tensors[i.name].nbytes(i, told.get(i.name)) for i in run.model.tensors)
    return payload + sum(map(len, beside.values())) + overhead_bytes(run.model, plan, run.calibration, beside, told)
