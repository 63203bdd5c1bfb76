"""Plans: what becomes of every tensor of a model, as a value and as a JSON text that a person can read and edit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mediant.checked_fields import checked_fields
from mediant.errors import PlanError
from mediant.files import parse_json
from mediant.forms import Form, from_dict
from mediant.values import MOST_STEPS

PLAN_VERSION = 2


@dataclass(frozen=True)
class Plan:
    """The narrow waist: all that encoding needs beside the model and its statistics. A person can edit it.

    `structure` are edits of the model that come before everything else, in order, each with a name and its parameters:
    {"edit": "drop_layers", "layers": [3]} (files under methods/structure). The fingerprint is that of the model before
    them; `tensors` are those of the model after them.
    After rounding, codes learn: `block_steps` in each block and `code_steps` end to end
    (methods/training/quantization_aware.py); `tune_steps` of scale tuning follow (methods/training/scale_tuning.py).
    `after` are further stages behind rounding, by name, with their fields (pipeline/stages).
    Unless `calibrated`, encoding looks at weights alone.
    """

    model_fingerprint: str
    recipe: str
    seed: int
    tensors: Mapping[str, Form]
    target_bytes: int | None = None
    predicted_loss: float | None = None
    tune_steps: int = 0
    block_steps: int = 0
    code_steps: int = 0
    after: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    structure: tuple[Mapping[str, Any], ...] = ()
    calibrated: bool = True
    version: int = PLAN_VERSION

    def to_json(self) -> str:
        """Returns a JSON text with one tensor a line, so that two plans can be compared by diff."""
        unsaid = ["tensors", *([] if self.after else ["after"]), *(["calibrated"] if self.calibrated else [])]
        head = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in unsaid}
        lines = [f" {json.dumps(k)}: {json.dumps(v)}," for k, v in head.items()]
        rows = [f"  {json.dumps(n)}: {json.dumps(t.to_dict())}" for n, t in self.tensors.items()]
        return "{\n" + "\n".join(lines) + '\n "tensors": {\n' + ",\n".join(rows) + "\n }\n}\n"

    @classmethod
    def from_json(cls, text: str, where: str = "the plan") -> Plan:
        """Reads what `to_json` writes.

        Raises:
            PlanError: not JSON, an unknown version, or a field that is missing, unknown or mistyped.
        """
        try:
            data = parse_json(text, _unique)
            if not isinstance(data, dict):
                raise ValueError("it is not a JSON object")
            if data.get("version") != PLAN_VERSION:
                raise PlanError(
                    f"{where} has version {data.get('version')!r}; this Mediant reads version {PLAN_VERSION}."
                    + (" Methods and grids had other names before it; plan again." if data.get("version") == 1 else "")
                )
            plan = cls(**checked_fields(cls, data))
            if not (plan.recipe.isprintable() and plan.model_fingerprint.isprintable()):
                raise ValueError("its recipe or fingerprint holds characters that cannot be printed")
            if any(not 0 <= n <= MOST_STEPS for n in (plan.tune_steps, plan.block_steps, plan.code_steps)):
                raise ValueError(f"its number of steps is outside 0 to {MOST_STEPS}")
            if plan.seed < 0 or (plan.target_bytes or 0) < 0 or not 0 <= (plan.predicted_loss or 0) < 1e99:
                raise ValueError("its seed, target or predicted loss is negative, or too large")
            checked_after(plan.after)
            tensors = {n: _tensor_plan(n, t) for n, t in plan.tensors.items()}
            return dataclasses.replace(plan, tensors=tensors, structure=checked_edits(plan.structure))
        except (ValueError, RecursionError) as problem:
            raise PlanError(f"{where} is not a plan: {problem}.") from None


def _tensor_plan(name: str, data: object) -> Form:
    try:
        return from_dict(data)
    except ValueError as problem:
        raise ValueError(f"of the tensor {name!r}, {problem}") from None


def checked_edits(edits: Iterable[object]) -> tuple[Mapping[str, Any], ...]:
    """Structural edits as JSON gave them.

    Raises:
        ValueError: one is not an object that names its edit.
    """
    found: list[Mapping[str, Any]] = []
    for edit in edits:
        if not isinstance(edit, dict) or not isinstance(edit.get("edit"), str):
            raise ValueError('a structural edit is not an object with its name under "edit"')
        found.append(edit)
    return tuple(found)


def checked_after(after: Mapping[str, object]) -> Mapping[str, Mapping[str, Any]]:
    """Stages after rounding as JSON or YAML gave them.

    Raises:
        ValueError: the fields of one are no object.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for name, fields in after.items():
        if not isinstance(fields, dict):
            raise ValueError(f"what it says of the stage {name!r} is not a mapping of names to values")
        found[name] = fields
    return found


def described(edit: Mapping[str, Any], longest: int = 40) -> str:
    """Returns a structural edit for people to read, long parameters cut short.

    >>> described({"edit": "drop_layers", "layers": [3, 7]})
    'drop_layers (layers: [3, 7])'
    """
    texts = {name: json.dumps(value) for name, value in edit.items() if name != "edit"}
    short = {name: text if len(text) <= longest else f"{text[:longest]}…" for name, text in texts.items()}
    return f"{edit['edit']} ({', '.join(f'{name}: {text}' for name, text in short.items())})"


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a JSON object in which no name comes twice; the second would silently win."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it says {name!r} twice")
        found[name] = value
    return found
