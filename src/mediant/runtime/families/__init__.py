"""Families of decoders. Each is one file: `MODEL_TYPES`, the `model_type`s it knows, and `describe`, which turns their
`config.json` into a `Description`. Nothing else has to be edited to add one.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from mediant.runtime.description import Config, Description, Unsupported


@cache
def known() -> Mapping[str, Callable[[Config], Description]]:
    """What describes a model, by its `model_type`."""
    found: dict[str, Callable[[Config], Description]] = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            family = importlib.import_module(f"{__name__}.{module.name}")
            found |= dict.fromkeys(family.MODEL_TYPES, family.describe)
    return found


def describe(config: Mapping[str, Any]) -> Description:
    """The decoder of a `config.json`.

    Raises:
        Unsupported: no family knows it, or it has something that the native decoder lacks.
    """
    model_type = config.get("model_type")
    describes = known().get(str(model_type))
    if describes is None:
        raise Unsupported(f"its model_type {model_type!r} is not among {', '.join(sorted(known()))}")
    return describes(Config(config))
