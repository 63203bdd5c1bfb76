"""The files of an adapter, and where they may not be. What merges them, which needs torch, is in `adapters`."""

from __future__ import annotations

from pathlib import Path

from mediant.errors import ModelError

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"


def lies_in(path: Path) -> bool:
    """Says whether a folder has the files of an adapter at its top."""
    return any((path / name).is_file() for name in (CONFIG, WEIGHTS, PICKLE))


def refuse_beside(checkpoint: Path) -> None:
    """Refuses a compressed model with an adapter beside it, which only the classes of transformers load.

    Raises:
        ModelError: the files of an adapter are in the folder.
    """
    if lies_in(checkpoint):
        raise ModelError(
            f"{checkpoint} has an adapter ({CONFIG}) beside a compressed model: load it through transformers' Auto"
            " classes, or move the adapter's files away for the model without it."
        )
