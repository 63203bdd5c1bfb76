"""Plans: what becomes of every tensor of a model, as a value and as a JSON text that a person can read and edit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mediant.checked_fields import checked_fields
from mediant.errors import PlanError
from mediant.files import parse_json

Storage = Literal["rows", "tiles", "nested"]

PLAN_VERSION = 1

MOST_STEPS = 999_999

# The fields of a TensorPlan that belong to the method `lattice` alone.
LATTICE_FIELDS = ("step", "damping", "price", "floor")

# And those of the method `compand`.
COMPAND_FIELDS = ("multiplier", "rate", "cluster", "sequences", "renewal")

# The matrices that the method `factors` stores, in this order; each has a plan of its own.
FACTORS = ("base", "left", "right")

FACTOR_FIELDS = ("low_rank", "rank", *FACTORS)


@dataclass(frozen=True)
class Run:
    """Consecutive rows of a matrix that share one depth."""

    rows: int
    bits: int


@dataclass(frozen=True)
class Drop:
    """A cut of a tensor's codes to so many leading bits, and its place among the cuts of the whole model."""

    bits: int
    place: int


@dataclass(frozen=True)
class TensorPlan:
    """What becomes of one tensor.

    `method` is `quantize` (grid x scale x rounding), `lattice`, `factors`, or `cast` to `dtype`; a bias that is cast
    may take up the mean error of its module's weight (`bias_correction`). Specs name files under `methods`.
    `runs` give the depth of consecutive rows and add up to all rows. `group` is the number of neighbouring columns
    that share a scale. `scale_bits` 16 stores a bfloat16 scale per group; fewer store a power of
    2^(-1/scale_steps) relative to a bfloat16 row scale, with a sign if `scale_signed` (kernels/scale_codes.py).
    `storage` is how codes lie in the file: `rows`, which goes with every grid and group, or for kernels `tiles` or
    `nested` (kernels/tiles.py). `drops` of a nested tensor say when it is cut to fewer bits while the model runs at
    less precision (planning/plane_order.py).
    `basis` names a change of basis of the columns that reading undoes: empty, {"name": "rotation", "seed": ...}
    (kernels/rotation.py), or {"name": "columns", "by": spec} with a stored factor for each column, found by a file
    under methods/balancing. `outliers` columns are stored as float16 beside their codes (methods/outliers.py).
    `sparse` keeps the weights of highest `score` that fit the `pattern` (methods/sparse.py), and quantizes them where
    there is a grid, else casts them; `runs` and `group` then count the weights kept in a row.
    `lattice` rounds to whole multiples of steps that follow from `step`, and codes them by entropy
    (methods/denominator.py): `damping` of the Hessian, `price` of a bit in squared steps, and `floor`, the least
    sensitivity of a row relative to the mean.
    `compand` gives every column of a cluster of about `cluster` rows a depth by its demand and `multiplier`
    (methods/companded.py); demands are measured with `sequences` sequences, on weights quantized to `rate` bits again
    after every `renewal` sequences, or on the original ones if that is 0.
    `factors` stores the matrix as the product of `left` [rows, rank] and `right` [rank, columns], each cast or
    quantized by a plan of its own, plus a quantized `base` where there is one; `low_rank` names how they were found
    (methods/factors.py).
    """

    method: Literal["quantize", "lattice", "compand", "sparse", "factors", "cast"]
    dtype: str = "float16"
    grid: Mapping[str, Any] = field(default_factory=dict)
    scale: Mapping[str, Any] = field(default_factory=dict)
    rounding: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[Run, ...] = ()
    group: int = 64
    scale_bits: int = 6
    scale_signed: bool = True
    scale_steps: int = 8
    storage: Storage = "rows"
    drops: tuple[Drop, ...] = ()
    basis: Mapping[str, Any] = field(default_factory=dict)
    outliers: int = 0
    bias_correction: bool = False
    step: float = 0.0
    damping: float = 0.01
    price: float = 0.12
    floor: float = 0.05
    multiplier: float = 0.0
    rate: float = 0.0
    cluster: int = 512
    sequences: int = 48
    renewal: int = 16
    pattern: Mapping[str, Any] = field(default_factory=dict)
    score: Mapping[str, Any] = field(default_factory=dict)
    low_rank: Mapping[str, Any] = field(default_factory=dict)
    rank: int = 0
    base: TensorPlan | None = None
    left: TensorPlan | None = None
    right: TensorPlan | None = None

    @property
    def rotation(self) -> int | None:
        """Seed of the rotation of the columns in which a tensor is rounded; None in the model's own basis."""
        return self.basis["seed"] if self.basis.get("name") == "rotation" else None

    @property
    def factors(self) -> dict[str, TensorPlan]:
        """Plans of the matrices that the method `factors` stores, by name."""
        found = {name: getattr(self, name) for name in FACTORS}
        return {name: plan for name, plan in found.items() if plan is not None}


@dataclass(frozen=True)
class Plan:
    """The narrow waist: all that `approximate` needs beside the model and its statistics. A person can edit it.

    `structure` are edits of the model that come before everything else, in order, each with a name and its parameters:
    {"edit": "drop_layers", "layers": [3]} (files under methods/structure). The fingerprint is that of the model before
    them; `tensors` are those of the model after them.
    After rounding, codes learn: `block_steps` in each block and `code_steps` end to end
    (methods/training/quantization_aware.py); `tune_steps` of scale tuning follow (methods/training/scale_tuning.py).
    """

    model_fingerprint: str
    recipe: str
    seed: int
    tensors: Mapping[str, TensorPlan]
    target_bytes: int | None = None
    predicted_loss: float | None = None
    tune_steps: int = 0
    block_steps: int = 0
    code_steps: int = 0
    structure: tuple[Mapping[str, Any], ...] = ()
    version: int = PLAN_VERSION

    def to_json(self) -> str:
        """A JSON text with one tensor a line, so that two plans can be compared by diff."""
        head = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "tensors"}
        lines = [f" {json.dumps(k)}: {json.dumps(v)}," for k, v in head.items()]
        rows = [f"  {json.dumps(n)}: {json.dumps(tensor_plan_to_dict(t))}" for n, t in self.tensors.items()]
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
                )
            plan = cls(**checked_fields(cls, data))
            if any(not 0 <= n <= MOST_STEPS for n in (plan.tune_steps, plan.block_steps, plan.code_steps)):
                raise ValueError(f"its number of steps is outside 0 to {MOST_STEPS}")
            if plan.seed < 0 or (plan.target_bytes or 0) < 0 or not 0 <= (plan.predicted_loss or 0) < 1e99:
                raise ValueError("its seed, target or predicted loss is negative, or too large")
            if not (plan.recipe.isprintable() and plan.model_fingerprint.isprintable()):
                raise ValueError("its recipe or fingerprint holds characters that cannot be printed")
            tensors = {n: _tensor_plan(n, t) for n, t in plan.tensors.items()}
            return dataclasses.replace(plan, tensors=tensors, structure=checked_edits(plan.structure))
        except (ValueError, RecursionError) as problem:
            raise PlanError(f"{where} is not a plan: {problem}.") from None


def _tensor_plan(name: str, data: object) -> TensorPlan:
    try:
        return tensor_plan_from_dict(data)
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


def pattern_name(pattern: Mapping[str, Any]) -> str:
    """The pattern of a sparse tensor for people to read.

    >>> pattern_name({"name": "n_of_m", "n": 2, "m": 4}), pattern_name({"name": "unstructured", "sparsity": 0.5})
    ('2:4', '50 %')
    """
    if pattern.get("name") == "n_of_m":
        return f"{pattern.get('n', 2)}:{pattern.get('m', 4)}"
    share = f"{100 * float(pattern.get('sparsity', 0.5)):.3g} %"
    return share if pattern.get("name") == "unstructured" else f"{share} {pattern.get('name')}"


def described(edit: Mapping[str, Any], longest: int = 40) -> str:
    """A structural edit for people to read, long parameters cut short.

    >>> described({"edit": "drop_layers", "layers": [3, 7]})
    'drop_layers (layers: [3, 7])'
    """
    texts = {name: json.dumps(value) for name, value in edit.items() if name != "edit"}
    short = {name: text if len(text) <= longest else f"{text[:longest]}…" for name, text in texts.items()}
    return f"{edit['edit']} ({', '.join(f'{name}: {text}' for name, text in short.items())})"


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which no name comes twice; the second would silently win."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it says {name!r} twice")
        found[name] = value
    return found


def tensor_plan_to_dict(plan: TensorPlan) -> dict[str, Any]:
    """A JSON form without the fields that do not matter for the method."""
    if plan.method == "cast":
        correction = {"bias_correction": True} if plan.bias_correction else {}
        return {"method": "cast", "dtype": plan.dtype, **correction}
    if plan.method == "lattice":
        return {"method": "lattice", **{name: getattr(plan, name) for name in LATTICE_FIELDS}}
    if plan.method == "compand":
        return {"method": "compand", **{name: getattr(plan, name) for name in COMPAND_FIELDS}}
    if plan.method == "sparse":
        values = tensor_plan_to_dict(dataclasses.replace(plan, method="quantize" if plan.grid else "cast"))
        return {**values, "method": "sparse", "pattern": dict(plan.pattern), "score": dict(plan.score)}
    if plan.method == "factors":
        stored = {name: tensor_plan_to_dict(factor) for name, factor in plan.factors.items()}
        return {"method": "factors", "low_rank": dict(plan.low_rank), "rank": plan.rank, **stored}
    unused = ("dtype", "bias_correction", "pattern", "score", *LATTICE_FIELDS, *COMPAND_FIELDS, *FACTOR_FIELDS)
    data = {f.name: getattr(plan, f.name) for f in dataclasses.fields(plan) if f.name not in unused}
    # Said only where they differ from the default, since a manifest says it for every tensor.
    usual_values: tuple[tuple[str, Any], ...] = (
        ("scale_signed", True),
        ("scale_steps", 8),
        ("storage", "rows"),
        ("drops", ()),
        ("basis", {}),
        ("outliers", 0),
    )
    for name, usual in usual_values:
        if data[name] == usual:
            del data[name]
    data["runs"] = [[r.rows, r.bits] for r in plan.runs]
    if plan.drops:
        data["drops"] = [[d.bits, d.place] for d in plan.drops]
    return {k: dict(v) if isinstance(v, Mapping) else v for k, v in data.items()}


def tensor_plan_from_dict(data: object) -> TensorPlan:
    """The inverse of `tensor_plan_to_dict`.

    Raises:
        ValueError: it is anything else.
    """
    if isinstance(data, dict):
        data = {**data, **{name: _factor_plan(name, data[name]) for name in FACTORS if name in data}}
    fields = checked_fields(TensorPlan, data)
    runs = tuple(Run(*run) for run in _pairs(fields, "runs", "whole numbers, rows and bits"))
    drops = tuple(Drop(*drop) for drop in _pairs(fields, "drops", "whole numbers, bits and a place"))
    depths = [max((run.bits for run in runs), default=0), *(drop.bits for drop in drops), 0]
    if drops and (fields.get("storage") != "nested" or depths != sorted({*depths}, reverse=True)):
        raise ValueError("the drops are not to ever fewer bits of a nested tensor")
    return TensorPlan(**fields | {"runs": runs, "drops": drops})


def _pairs(fields: Mapping[str, Any], name: str, wanted: str) -> Iterable[list[int]]:
    pairs: Iterable[list[int]] = fields.get(name, ())
    if any(type(pair) is not list or [type(number) for number in pair] != [int, int] for pair in pairs):
        raise ValueError(f"the {name} are not pairs of {wanted}")
    return pairs


def _factor_plan(name: str, data: object) -> TensorPlan:
    # One level deep: what a file says must not decide how deep a reader calls itself.
    if isinstance(data, dict) and not set(data).isdisjoint(FACTORS):
        raise ValueError(f"the {name} has factors of its own")
    return tensor_plan_from_dict(data)
