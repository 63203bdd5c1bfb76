"""Exports to an ordinary Hugging Face folder: dense weights that plain transformers, vLLM and GGUF converters load.

What compression took away stays away (zeros are stored as zeros), but so do its savings in bytes, except for those of
structural edits. Types: float32 holds decoded weights exactly; float16 and bfloat16 round them.
"""

from __future__ import annotations

from pathlib import Path

import torch

from mediant.errors import UsageError
from mediant.exporters.dense import opened
from mediant.models.dense_folder import check_free, write_folder
from mediant.progress import SILENT, Progress

TYPES = ("float32", "float16", "bfloat16")


def export(spec: str, out: Path, kind: str = "float32", progress: Progress = SILENT) -> None:
    """Writes the model `spec` to the folder `out`.

    Raises:
        UsageError: there is no such type.
        StorageError: something is at `out` already, or the disk refuses.
    """
    if kind not in TYPES:
        raise UsageError(f"The type {kind!r} is none of {', '.join(TYPES)}.")
    check_free(out)
    with opened(spec, getattr(torch, kind), progress) as model:
        write_folder(out, model.config, model.tensors, dict(model.files), progress)
