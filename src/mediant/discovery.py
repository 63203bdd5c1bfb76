"""A method is found by its file name: `methods/grids/farey.py` is the grid `farey`.

Each such file defines `METHOD`, one frozen dataclass whose fields are the method's parameters. A *spec* names it
in a Plan: `{"name": "farey", "order": 5}`.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from mediant.errors import PlanError

Spec = Mapping[str, Any]


@cache
def names(kind: str) -> tuple[str, ...]:
    """Returns the names of all methods of a kind, such as `grids` or `scales`, in alphabetical order.

    A kind is a folder of `mediant.methods`, or any package by its full name.
    """
    package = importlib.import_module(_package(kind))
    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")))


def make(kind: str, spec: Spec) -> Any:
    """Returns the method that `spec` names, with its parameters.

    Raises:
        PlanError: no such method, or a parameter that it does not have.
    """
    parameters = dict(spec)
    name = parameters.pop("name", None)
    method = _module(kind, name).METHOD
    known = {field.name for field in dataclasses.fields(method) if field.init}
    unknown = sorted(set(parameters) - known)
    if unknown:
        choice = ", ".join(sorted(known)) or "none"
        raise PlanError(f"The method {name!r} of {_short(kind)} has no parameter {unknown[0]!r}; it has: {choice}.")
    try:
        return method(**parameters)
    except (TypeError, ValueError) as problem:
        raise PlanError(f"The method {name!r} of {_short(kind)} refuses {parameters}: {problem}") from None


def needs(kind: str, spec: Spec) -> frozenset[str]:
    """Names what the method of `spec` asks of calibration, such as `hessian`; an empty spec asks for nothing.

    Raises:
        PlanError: no such method.
    """
    return frozenset(_module(kind, spec.get("name")).NEEDS) if spec else frozenset()


def _module(kind: str, name: object) -> Any:
    if name not in names(kind):
        raise PlanError(f"There is no method {name!r} among the {_short(kind)}; there are: {', '.join(names(kind))}.")
    return importlib.import_module(f"{_package(kind)}.{name}")


def _package(kind: str) -> str:
    return kind if kind.startswith("mediant.") else f"mediant.methods.{kind}"


def _short(kind: str) -> str:
    return kind.rpartition(".")[2] if kind.startswith("mediant.") else kind


def spec(method: Any) -> dict[str, Any]:
    """Returns the spec that `make` turns back into an equal method."""
    name = type(method).__module__.rpartition(".")[2]
    return {"name": name, **dataclasses.asdict(method)}
