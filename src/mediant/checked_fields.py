"""Fields of a dataclass as JSON or YAML gave them, checked against the types that it states."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints


def checked_fields(kind: type, data: object) -> dict[str, Any]:
    """Returns the fields of a dataclass as JSON or YAML gave them: all that it needs, no others, each of the type it
    states.

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
    """Returns the types of a dataclass's fields. Finding them takes longer than checking what a manifest says of a
    tensor.
    """
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


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
    """Returns a type's name for a message."""
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) is UnionType:
        return " or ".join(map(_wanted, get_args(hint)))
    words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list"}
    return words.get(_plain(hint), "nothing" if hint is type(None) else "a mapping of names to values")
