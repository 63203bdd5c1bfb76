"""JSON from a file that may be damaged or hostile: bounded, without duplicates, and with every field's kind checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from mediant.errors import CheckpointError

Kinds = Mapping[str, type | tuple[type, ...]]


def parse(data: bytes, where: str) -> Any:
    """Returns the value of a UTF-8 JSON text.

    Raises:
        CheckpointError: not JSON; nested too deeply; a name twice in an object; NaN or an infinity.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise ValueError("a name occurs twice in one object")
        return fields

    def finite(text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"{text[:20]} is not a finite number")
        return number

    try:
        return json.loads(data.decode(), object_pairs_hook=unique, parse_float=finite, parse_constant=finite)
    except RecursionError:
        raise CheckpointError(f"{where} is nested too deeply to be what Mediant wrote.") from None
    except ValueError as problem:
        raise CheckpointError(f"{where} is not the JSON that Mediant wrote: {problem}.") from None


def fields(value: Any, kinds: Kinds, where: str) -> dict[str, Any]:
    """`value`, if it is an object with just the fields in `kinds`, each exactly of that type (bool is no int).

    Texts must be printable, so that a name cannot steer a terminal.

    Raises:
        CheckpointError: anything else.
    """
    checked = mapping(value, where)
    for name in kinds.keys() ^ checked.keys():
        problem = "lacks the field" if name in kinds else "has the unknown field"
        raise CheckpointError(f"{where} {problem} {name!r}.")
    for name, kind in kinds.items():
        if type(checked[name]) not in (kind if isinstance(kind, tuple) else (kind,)):
            raise CheckpointError(f"In {where}, {name!r} is of the wrong kind: {repr(checked[name])[:40]}.")
        if isinstance(checked[name], str) and not checked[name].isprintable():
            raise CheckpointError(f"In {where}, {name!r} holds characters that cannot be printed.")
    return checked


def mapping(value: Any, where: str) -> dict[str, Any]:
    """`value`, if it is an object with printable names.

    Raises:
        CheckpointError: it is not.
    """
    if type(value) is not dict:
        raise CheckpointError(f"{where} is not a JSON object.")
    for name in value:
        if not name.isprintable():
            raise CheckpointError(f"{where} has a name that cannot be printed: {name[:40]!r}.")
    return value


def whole_numbers(value: Any, where: str) -> tuple[int, ...]:
    """`value`, if it is a list of whole numbers from 0.

    Raises:
        CheckpointError: it is not.
    """
    if type(value) is not list or any(type(n) is not int or n < 0 for n in value):
        raise CheckpointError(f"{where} is not a list of whole numbers from 0: {repr(value)[:40]}.")
    return tuple(value)
