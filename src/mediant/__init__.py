"""Mediant compresses language models to the size you name and says exactly what that cost.

The nouns: `Model`, `Statistics`, `Plan`, `Encoding`, `Scorecard`. The verbs: `compress`, and `load` for what it made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mediant.forms import Encoding
from mediant.planning.plan import Plan
from mediant.runtime import transformers_hook
from mediant.values import Model, Scorecard, Statistics

if TYPE_CHECKING:
    from mediant.pipeline.compress import compress
    from mediant.pipeline.request import CompressRequest
    from mediant.runtime.loading import load

__all__ = ["CompressRequest", "Encoding", "Model", "Plan", "Scorecard", "Statistics", "compress", "load"]

# The verbs need torch; they are imported when they are first used, so that `import mediant` stays quick.
_VERBS = {
    "CompressRequest": "mediant.pipeline.request",
    "compress": "mediant.pipeline.compress",
    "load": "mediant.runtime.loading",
}


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        import importlib

        return getattr(importlib.import_module(_VERBS[name]), name)
    raise AttributeError(f"module 'mediant' has no attribute {name!r}")


# From here on, from_pretrained of transformers loads our folders too.
transformers_hook.install()
