"""Operators with a readable reference and, under the same name, a native twin.

`MEDIANT_KERNELS` forces a path: `reference` (NumPy), `native` (fail if it was not built), or native and the name of an
instruction set for the kernels that have several, such as `portable` or `avx2`; unset takes the best native one where
they were built and says once where they were not.
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
    if wanted == "reference":
        return None
    try:
        module = importlib.import_module("mediant.kernels._native")
    except ImportError as problem:
        if wanted:
            raise UsageError(f"MEDIANT_KERNELS={wanted}, but the native kernels were not built: {problem}") from None
        warnings.warn(
            "mediant was installed without a C++ compiler: the slower reference kernels are used.",
            MediantWarning,
            stacklevel=2,
        )
        return None
    if wanted not in ("", "native") and not module.force_instruction_set(wanted):
        known = ", ".join(module.instruction_sets())
        raise UsageError(
            f"MEDIANT_KERNELS is {wanted!r}; on this processor it takes 'reference', 'native' or one of: {known}."
        )
    return module


native: ModuleType | None = _load()

__all__ = ["native", "threads"]
