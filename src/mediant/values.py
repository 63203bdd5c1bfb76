"""The nouns that travel between the verbs: frozen, and every one that outlives a run can be written and read back.

Conventions: a *matrix* has rows = outputs and columns = inputs, whatever way round the model stores it
(`TensorInfo.layout`). Bytes are whole files. Bits per weight count every stored bit over every weight of the model.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from mediant.errors import PlanError

Role = Literal["linear", "embedding", "head", "norm", "bias", "expert", "other"]
Storage = Literal["rows", "tiles", "nested"]
Layout = Literal["out_in", "in_out", "experts_out_in", "experts_in_out", "none"]
Array = NDArray[Any]

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
class TensorInfo:
    """One tensor of a model.

    `name` is its name in the transformers model; `aliases` are other names of the same storage (a tied head).
    `layout` says how it becomes a matrix: `out_in` as it is; `in_out` transposed (GPT-2's Conv1D);
    `experts_*` a stack of such matrices, [experts, ...]; `none` it has no matrix form.
    `module` is the path of the module that owns it, `layer` the index of its transformer block or -1.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    layout: Layout = "none"
    module: str = ""
    layer: int = -1
    aliases: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix form; the matrices of a stack of experts lie under one another."""
        if self.layout == "out_in":
            return self.shape[0], self.shape[1]
        if self.layout == "in_out":
            return self.shape[1], self.shape[0]
        if self.layout == "experts_out_in":
            return self.shape[0] * self.shape[1], self.shape[2]
        if self.layout == "experts_in_out":
            return self.shape[0] * self.shape[2], self.shape[1]
        raise PlanError(f"The tensor {self.name!r} of shape {self.shape} has no matrix form.")


@dataclass(frozen=True)
class Model:
    """A model as it lies on disk: a Hugging Face folder, and what is in it. Weights stay there until they are read.

    Where structural edits made it, `edits` are these (`Plan.structure`) and `original` is the model before all of them.
    """

    path: Path
    name: str
    architecture: str
    config: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    fingerprint: str
    causal: bool = True
    original: Model | None = None
    edits: tuple[Mapping[str, Any], ...] = ()

    @property
    def unedited(self) -> Model:
        """The model before all structural edits."""
        return self.original or self

    @property
    def weights(self) -> int:
        """Number of weights, tied ones counted once."""
        return sum(t.size for t in self.tensors)

    def tensor(self, name: str) -> TensorInfo:
        """The tensor of that name or alias; KeyError if there is none."""
        for t in self.tensors:
            if name == t.name or name in t.aliases:
                return t
        raise KeyError(name)


@dataclass(frozen=True)
class LayerStatistics:
    """Diagonal second-order statistics of one matrix over the calibration tokens, float64.

    For a linear layer, `input_square[j]` = E[x_j^2] and `input_mean[j]` = E[x_j] over n inputs, and
    `output_fisher[i]` = E[(dl/dy_i)^2] over m outputs, where l is the log-likelihood of a label sampled from the
    model (Fisher, not the empirical gradient). Weight ij then has the sensitivity output_fisher[i] * input_square[j].
    For an embedding, rows are tokens: `output_fisher[i]` is the frequency of token i and `input_square[j]` the Fisher
    of component j of its output; a tied head adds a second term, in `head_square` and `head_fisher`.
    For a stack of experts, inputs are by expert, [experts, n], over the tokens that it saw, and rows, of all experts
    under one another, count how often the expert is used; `expert_tokens` [experts] are the tokens that each saw.
    """

    input_square: Array
    input_mean: Array
    output_fisher: Array
    tokens: int
    head_square: Array | None = None
    head_fisher: Array | None = None
    expert_tokens: Array | None = None

    def expert(self, number: int) -> LayerStatistics:
        """Of a stack of experts, the statistics of one expert's matrix."""
        size = len(self.output_fisher) // len(self.input_square)
        return dataclasses.replace(
            self,
            input_square=self.input_square[number],
            input_mean=self.input_mean[number],
            output_fisher=self.output_fisher[number * size : (number + 1) * size],
            tokens=self.tokens if self.expert_tokens is None else int(self.expert_tokens[number]),
            expert_tokens=None,
        )


@dataclass(frozen=True)
class Statistics:
    """What calibration learned, by tensor name, and from what."""

    layers: Mapping[str, LayerStatistics]
    model_fingerprint: str
    text_fingerprint: str
    tokens: int
    source: str


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
            data = json.loads(text, object_pairs_hook=_unique)
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


def checked_fields(kind: type, data: object) -> dict[str, Any]:
    """The fields of a dataclass as JSON or YAML gave them: all that it needs, no others, each of the type it states.

    Sequences and mappings are lists and dictionaries there, and what is in them is not looked at.

    Raises:
        ValueError: naming the first field at fault.
    """
    if not isinstance(data, dict):
        raise ValueError("the fields are not a mapping of names to values")
    hints = _hints(kind)
    needed = {f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING}
    for name, value in data.items():
        if name not in hints:
            raise ValueError(f"the field {name!r} is unknown; the fields are: {', '.join(hints)}")
        if not _fits(value, hints[name]):
            raise ValueError(f"the field {name!r} is {str(value)[:60]!r}, not {_wanted(hints[name])}")
    if missing := sorted(needed - set(data)):
        raise ValueError(f"the field {missing[0]!r} is missing")
    return dict(data)


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields. Finding them takes longer than checking what a manifest says of a tensor."""
    return get_type_hints(kind)


def _fits(value: object, hint: Any) -> bool:
    origin, choices = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in choices
    if origin is UnionType:
        return any(_fits(value, choice) for choice in choices)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300
    return type(value) is _plain(hint)


def _plain(hint: Any) -> Any:
    return {tuple: list, Mapping: dict}.get(get_origin(hint), hint)


def _wanted(hint: Any) -> str:
    """What a type is called in a message."""
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) is UnionType:
        return " or ".join(map(_wanted, get_args(hint)))
    words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list"}
    return words.get(_plain(hint), "nothing" if hint is type(None) else "a mapping of names to values")


@dataclass(frozen=True)
class Certificate:
    """What is known about the error of one encoded matrix W^ against W.

    `relative_error` = ||W - W^||^2 / ||W||^2. `weighted_error` is the same in the metric of the calibrated
    sensitivities (equal to `relative_error` where there were none). `bound` is the largest |w - w^| that can occur
    when nothing clips, in units of the scale (half the widest gap of the grid); `clipped` the share of weights
    outside the grid's range, and, where errors were carried on, of those that were outside when their turn came.
    `worst_error` is what `weighted_error` can be at most where nothing clips, and `expected_error` what it should be
    where errors spread evenly between levels (methods/error_bounds.py); None where no such bound is known, as after
    tuning.
    """

    relative_error: float
    weighted_error: float
    bound: float
    clipped: float
    worst_error: float | None = None
    expected_error: float | None = None


@dataclass(frozen=True)
class Encoding:
    """One approximated tensor: its parts exactly as they are stored, and how to read them (checkpoint/FORMAT.md)."""

    info: TensorInfo
    plan: TensorPlan
    parts: Mapping[str, Array]
    certificate: Certificate | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(int(p.nbytes) for p in self.parts.values())


@dataclass(frozen=True)
class Scorecard:
    """The cost of a compression on one text, by the protocol of docs/notation.md."""

    kl: float
    kl_se: float
    perplexity: float
    reference_perplexity: float
    top1: float
    bytes: int
    bits_per_weight: float
    windows: int
    window: int
    tokens: int
    text: str
