"""The product of two thin matrices, each cast or quantized, plus a quantized base where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from mediant import discovery
from mediant.checked_fields import checked_fields
from mediant.errors import PlanError
from mediant.forms import Arrays, Encoding, Floats, Form, Ledger, Side, Words
from mediant.forms.cast.form import Cast
from mediant.forms.parts import Parts, check_reach, matrix_shape, within
from mediant.forms.quantize.form import Quantize
from mediant.kernels.factor_product import factor_product
from mediant.values import Array, RowSpan, TensorInfo

# The stored matrices, in this order, and the forms that each can have.
KINDS = {"base": (Quantize,), "left": (Cast, Quantize), "right": (Cast, Quantize)}

Sides = Mapping[str, Side]


@dataclass(frozen=True)
class Factors(Form):
    """`left` [rows, rank] times `right` [rank, columns], plus a `base` where there is one, each by a form of its own.

    `low_rank` names how they were found, a file under methods/low_rank.
    """

    method: ClassVar[str] = "factors"
    ledger: ClassVar[Ledger] = "factored"
    asked_by: ClassVar[str] = "low_rank"

    low_rank: Mapping[str, Any] = field(default_factory=dict)
    rank: int = 0
    base: Form | None = None
    left: Form | None = None
    right: Form | None = None

    @property
    def factors(self) -> dict[str, Form]:
        """Forms of the stored matrices by name, in the order of the file."""
        found = {name: getattr(self, name) for name in KINDS}
        return {name: plan for name, plan in found.items() if plan is not None}

    @property
    def side_fields(self) -> tuple[str, ...]:  # type: ignore[override]
        """The grids of its quantized matrices, if any is."""
        return tuple({name: None for plan in self.factors.values() for name in plan.side_fields})

    def check(self, info: TensorInfo) -> None:
        """Refuses a tensor that it does not fit, or a method that does not exist."""
        super().check(info)
        discovery.make("low_rank", self.low_rank)
        for name, factor in self.infos(info).items():
            self.factors[name].check(factor)

    def needs(self) -> frozenset[str]:
        """Returns statistics that the decomposition and the forms of its factors need."""
        return discovery.needs("low_rank", self.low_rank).union(*(plan.needs() for plan in self.factors.values()))

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON form."""
        stored = {name: plan.to_dict() for name, plan in self.factors.items()}
        return {"method": self.method, "low_rank": dict(self.low_rank), "rank": self.rank, **stored}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Factors:
        """Returns the inverse of `to_dict`. One level deep: what a file says must not decide how deep a reader calls
        itself.
        """
        own = checked_fields(cls, {name: value for name, value in data.items() if name not in KINDS})
        return cls(**own | {name: _factor(name, data[name]) for name in KINDS if name in data})

    def infos(self, info: TensorInfo) -> dict[str, TensorInfo]:
        """Returns the stored matrices as tensors of their own, by name."""
        rows, columns = info.matrix_shape
        shapes = {"base": (rows, columns), "left": (rows, self.rank), "right": (self.rank, columns)}
        return {n: TensorInfo(f"{info.name}.{n}", shapes[n], "float32", info.role, "out_in") for n in self.factors}

    def side(self, info: TensorInfo) -> Sides:
        """Returns the grids of its quantized matrices, by name."""
        sides = {name: self.factors[name].side(factor) for name, factor in self.infos(info).items()}
        return {name: side for name, side in sides.items() if side is not None}

    def side_to_dict(self, side: Sides) -> dict[str, Any]:
        """Each field with one entry for every matrix that has it."""
        found: dict[str, Any] = {}
        for name, one in side.items():
            for key, value in self.factors[name].side_to_dict(one).items():
                found.setdefault(key, {})[name] = value
        return found

    def side_from_dict(self, info: TensorInfo, given: Mapping[str, Any], parts: Parts) -> Sides:
        """Returns the inverse of `side_to_dict`."""
        for key, value in given.items():
            having = {name for name, plan in self.factors.items() if key in plan.side_fields}
            if value.keys() != having or not all(isinstance(one, dict) for one in value.values()):
                raise ValueError(f"there is not one {key} for each quantized factor")
        found = {}
        for name, plan in self.factors.items():
            own = {key: given[key][name] for key in plan.side_fields}
            found[name] = plan.side_from_dict(info, own, within(parts, name))
        return {name: side for name, side in found.items() if side is not None}

    def parts(self, info: TensorInfo, side: Sides | None = None) -> Parts:
        """Returns the arrays of all stored matrices, their names behind that of the matrix."""
        matrix_shape(info)
        if not 1 <= self.rank <= min(info.matrix_shape):
            raise PlanError(f"The rank of {info.name!r} is {self.rank}; it takes 1 to {min(info.matrix_shape)}.")
        if missing := [name for name in ("left", "right") if name not in self.factors]:
            raise PlanError(f"The plan of {info.name!r} does not say how its {missing[0]} factor is stored.")
        for name, plan in self.factors.items():
            if not isinstance(plan, KINDS[name]):
                raise PlanError(
                    f"The {name} of {info.name!r} has the method {plan.method!r}; "
                    f"{' or '.join(kind.method for kind in KINDS[name])} is right."
                )
        sides = self.side(info) if side is None else side
        return {
            f"{name}.{part}": shape
            for name, factor in self.infos(info).items()
            for part, shape in self.factors[name].parts(factor, sides.get(name)).items()
        }

    def encodings(self, info: TensorInfo, arrays: Arrays, side: Sides | None) -> dict[str, Encoding]:
        """Returns the stored matrices as encodings of their own."""
        sides = self.side(info) if side is None else side
        return {
            name: Encoding(factor, self.factors[name], within(arrays, name), None, sides.get(name))
            for name, factor in self.infos(info).items()
        }

    def matrix(self, info: TensorInfo, arrays: Arrays, side: Sides | None, planes: int | None = None) -> Floats:
        """Returns the product, plus the base."""
        found = {name: factor.decode() for name, factor in self.encodings(info, arrays, side).items()}
        return factor_product(found["left"], found["right"], found.get("base"))

    def verify_sound(self, info: TensorInfo, arrays: Arrays, side: Sides | None) -> None:
        """Verifies every factor, and that no product is infinite."""
        encodings = self.encodings(info, arrays, side)
        for factor in encodings.values():
            factor.verify()
        largest = {name: float(np.abs(factor.decode()).max()) for name, factor in encodings.items()}
        reach = self.rank * largest["left"] * largest["right"] + largest.get("base", 0.0)
        check_reach(info, reach, "factors")

    def with_row_gains(self, info: TensorInfo, arrays: Arrays, gains: Floats) -> dict[str, Array]:
        """Returns the rows of the left factor, and of what is added to the product, times their gains."""
        changed = {
            f"{name}.{part}": array
            for name, factor in self.encodings(info, arrays, None).items()
            if name != "right"
            for part, array in factor.plan.with_row_gains(factor.info, factor.parts, gains).items()
        }
        return {**arrays, **changed}

    def words(self) -> Words:
        """Returns the rank, and how each factor is stored."""
        words = {name: plan.words() for name, plan in self.factors.items()}
        stored = ", ".join(f"{name} {one.short}" for name, one in words.items())
        full = " + ".join(f"{name}: {one.full}" for name, one in words.items())
        factors = {name: {"method": self.factors[name].method, **one.fields} for name, one in words.items()}
        fields = {"low_rank": dict(self.low_rank), "rank": self.rank, "factors": factors}
        return Words(f"rank {self.rank}: {stored}", f"rank {self.rank}: {full}", None, fields)


def _factor(name: str, data: object) -> Form:
    if not isinstance(data, dict):
        raise ValueError(f"the field {name!r} is {str(data)[:60]!r}, not a mapping of names to values")
    kinds = {kind.method: kind for kind in KINDS["left"]}
    if data.get("method") not in kinds:
        raise ValueError(f"the {name} has the method {str(data.get('method'))[:60]!r}; {' or '.join(kinds)} is right")
    return kinds[str(data["method"])].from_dict({key: value for key, value in data.items() if key != "method"})


FORM = Factors
_BASE = Quantize({"name": "uniform"}, {"name": "exact"}, {"name": "nearest"}, runs=(RowSpan(16, 3),), group=16)
EXAMPLES = (
    Factors({"name": "truncated_svd"}, 4, left=Cast("float16"), right=Cast("bfloat16")),
    Factors({"name": "residual"}, 2, base=_BASE, left=_BASE, right=replace(_BASE, runs=(RowSpan(2, 4),))),
)
