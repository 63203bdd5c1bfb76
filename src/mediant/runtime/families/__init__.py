"""Families of decoders. Each is one file: `MODEL_TYPES`, the `model_type`s it knows, the `ARCHITECTURE` it runs, and
`describe`, which turns a resolved configuration into a `Description`. Nothing else has to be edited to add one.

A family asks for every entry that makes two of its networks differ. An entry that tells and that it never asks for
makes the model `UnsupportedModel`, so a family cannot overlook one. Defaults are none of its business: a resolved
configuration has them all.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from mediant.models import remote_code
from mediant.models.configuration import Configuration
from mediant.runtime.description import Config, Description, UnsupportedModel


@cache
def known() -> Mapping[str, Any]:
    """Returns the module of each family, by the `model_type`s it knows."""
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            family = importlib.import_module(f"{__name__}.{module.name}")
            found |= dict.fromkeys(family.MODEL_TYPES, family)
    return found


def describe(configuration: Configuration) -> Description:
    """Returns the decoder that a configuration describes.

    Raises:
        UnsupportedModel: no family knows it, or it has something that the native decoder lacks.
    """
    if remote_code.trusted() and remote_code.references(configuration.entries.get("auto_map")):
        raise UnsupportedModel("it comes with code of its own, which is trusted")
    model_type, named = (configuration.entries.get(name) for name in ("model_type", "architectures"))
    family = known().get(str(model_type))
    if family is None:
        raise UnsupportedModel(f"its model_type {model_type!r} is not among {', '.join(sorted(known()))}")
    if named and named[0] != family.ARCHITECTURE:
        raise UnsupportedModel(f"its config.json names the architecture {named[0]!r}, not {family.ARCHITECTURE!r}")
    config = Config(configuration)
    found: Description = family.describe(config)
    config.check_all_read()
    return found
