"""Architectures of GGUF files, one a file: `llama.py` is `llama`, and `gpt_oss.py` is `gpt-oss`.

Each has `FAMILY`: the network in transformers, the settings of its configuration from the header, and from which
tensors of the file each tensor of the network comes, as llama.cpp's `convert_hf_to_gguf.py` put them there.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from mediant.models.gguf.parts import Family


@cache
def families() -> dict[str, Family]:
    """Returns all architectures that are known, by llama.cpp's names."""
    files = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    return {name.replace("_", "-"): importlib.import_module(f"{__name__}.{name}").FAMILY for name in sorted(files)}
