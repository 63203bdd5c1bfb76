"""How a network generates, as the file beside its weights says."""

from __future__ import annotations

from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import GENERATION_CONFIG_NAME

from mediant import files
from mediant.errors import ModelError


def restore(network: PreTrainedModel, folder: Path) -> None:
    """Gives a network the settings of `generation_config.json` in a folder, if it generates and the file is there.

    Raises:
        ModelError: the file cannot be read as such settings.
    """
    if not network.can_generate() or not (folder / GENERATION_CONFIG_NAME).is_file():
        return
    try:
        network.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, TypeError, AttributeError, KeyError) as problem:
        where = folder / GENERATION_CONFIG_NAME
        raise ModelError(f"The settings for generation in {where} cannot be read: {files.reason(problem)}") from problem
