"""Forms: how one tensor is stored. A form is one folder here, found by its name, the `method` of plans and manifests.

`form.py` has `FORM` and `EXAMPLES`, plans that the contract tests try on a matrix [16, 64].

`FORM` is a frozen dataclass of what a plan says of one tensor (forms/contract.py): its arrays and exact bytes, what a
manifest says beside the plan, decoding, verifying, what the native decoder multiplies by, words for people. It imports
no torch, so that checkpoints are read without. `encode.py` finds the arrays and may import all (forms/encoding.py).

Nobody outside asks for a form's name, only for what it can do.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from mediant.forms.answers import Bytes, Codes, Floats, Views, Words
from mediant.forms.contract import Arrays, Coding, Form, Ledger, Side
from mediant.values import Array, Certificate, TensorInfo

__all__ = [
    "Arrays",
    "Bytes",
    "Codes",
    "Coding",
    "Encoding",
    "Floats",
    "Form",
    "Ledger",
    "Side",
    "Views",
    "Words",
    "asked_by",
    "form",
    "from_dict",
    "keep",
    "kept",
    "names",
    "needs",
]


@dataclass(frozen=True)
class Encoding:
    """One approximated tensor: its arrays exactly as they are stored, and how to read them."""

    info: TensorInfo
    plan: Form
    parts: Mapping[str, Array]
    certificate: Certificate | None = None
    side: Side = None

    def __post_init__(self) -> None:
        if self.side is None:
            object.__setattr__(self, "side", self.plan.side_of(self.info, self.parts))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(int(array.nbytes) for array in self.parts.values())

    def decode(self, planes: int | None = None) -> Floats:
        """Returns the weights in the tensor's own shape; as `Form.decode`."""
        return self.plan.decode(self.info, self.parts, self.side, planes)

    def verify(self) -> None:
        """Refuses arrays that are not sound; as `Form.verify`."""
        self.plan.verify(self.info, self.parts, self.side)


def names() -> tuple[str, ...]:
    """Returns the names of all forms, in alphabetical order."""
    return _names(tuple(__path__))


@cache
def _names(path: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(module.name for module in pkgutil.iter_modules(path) if module.ispkg))


def form(method: str) -> type[Form]:
    """Returns the form of that name.

    Raises:
        ValueError: there is none.
    """
    if method not in names():
        raise ValueError(f"there is no method {str(method)[:60]!r}; the methods are: {', '.join(names())}")
    found: type[Form] = importlib.import_module(f"{__name__}.{method}.form").FORM
    return found


def asked_by(field: str) -> type[Form]:
    """Returns the form that a field of a recipe asks for, such as `pattern`."""
    return next(kind for kind in map(form, names()) if kind.asked_by == field)


def from_dict(data: object) -> Form:
    """Returns the inverse of `Form.to_dict`.

    Raises:
        ValueError: it is no form of a tensor.
    """
    if not isinstance(data, dict) or not isinstance(data.get("method"), str):
        raise ValueError("it does not name its method")
    return form(data["method"]).from_dict({name: value for name, value in data.items() if name != "method"})


def kept(dtype: str, bias_correction: bool = False) -> Form:
    """Returns the form of a tensor that is kept as numbers of a type; a bias may take up the mean error of its
    weight.
    """
    found = {"method": "cast", "dtype": dtype, **({"bias_correction": True} if bias_correction else {})}
    return from_dict(found)


def keep(info: TensorInfo, values: Floats, dtype: str) -> Encoding:
    """Returns a tensor kept as numbers of a type.

    Raises:
        PlanError: they do not fit the type.
    """
    plan: Any = kept(dtype)
    return Encoding(info, plan, plan.stored(values, info.name))


def needs(plans: Iterable[Form]) -> frozenset[str]:
    """Names what encoding by any of the plans asks of calibration."""
    return frozenset().union(*(plan.needs() for plan in plans))
