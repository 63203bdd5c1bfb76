"""Operators with a readable reference and, under the same name, a native twin.

`MEDIANT_KERNELS` forces a path: `reference` (NumPy), `native` (fail if it was not built); unset takes the
native one where it was built and says once where it was not.
"""

from __future__ import annotations

import importlib
import os
import warnings
from types import ModuleType

from mediant.errors import MediantWarning, UsageError
from mediant.workers import threads


def _load() -> ModuleType | None:
    wanted = os.environ.get("MEDIANT_KERNELS", "")
    if wanted not in ("", "reference", "native"):
        raise UsageError(f"MEDIANT_KERNELS is {wanted!r}; it takes 'reference' or 'native'.")
    if wanted == "reference":
        return None
    try:
        module = importlib.import_module("mediant.kernels._native")
    except ImportError as problem:
        if wanted == "native":
            raise UsageError(f"MEDIANT_KERNELS=native, but the native kernels were not built: {problem}") from None
        warnings.warn(
            "mediant was installed without a C++ compiler: the slower reference kernels are used.",
            MediantWarning,
            stacklevel=2,
        )
        return None
    return module


native: ModuleType | None = _load()

__all__ = ["native", "threads"]
