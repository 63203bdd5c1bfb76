"""A Hugging Face folder: what must be in it, and the tensors its safetensors files hold.

A folder in the cache may stand for a GGUF file, with all but the weights (`gguf_conversion`).
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from mediant import files
from mediant.errors import ModelError
from mediant.files import read_json
from mediant.models import impostors

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CHECKPOINT = "mediant.json"
# Our own in the cache folder. No model that others make has a file of this name.
ORIGIN = "mediant-source.json"
CHECKED = (".json", ".safetensors", ".model", ".txt", ".jinja")
"""Endings of the files of a model that are looked at before anything is read from them."""

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5")


def check(folder: Path) -> None:
    """Checks that a folder holds a plain model.

    Raises:
        ModelError: it is a Mediant checkpoint, has no config.json, has no whole set of safetensors weights, or a
            file in it is a link to nowhere or not what its name says.
    """
    if (folder / CHECKPOINT).exists():
        raise ModelError(f"{folder} is a Mediant checkpoint; give the model it was made from{_origin(folder)}.")
    if not (folder / "config.json").is_file():
        guesses = sorted(folder.glob("*.gguf"))
        hint = f"; for the GGUF file in it give {guesses[0]}" if guesses else ""
        raise ModelError(f"The folder {folder} has no config.json, so it is not a Hugging Face model{hint}.")
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in CHECKED:
            continue
        if file.is_symlink() and not file.exists():
            raise ModelError(f"{file} is a link to a file that is not there; put the file back, or download it again.")
        if file.is_file():
            impostors.check(file)
    read_config(folder)
    weight_files(folder)


def _origin(folder: Path) -> str:
    """Returns the name of the model that a checkpoint was made from, as the end of a sentence."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return f", {json.loads((folder / CHECKPOINT).read_text(encoding='utf-8'))['model']['name']}"
    return ""


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the `config.json` of a folder as it stands.

    Raises:
        ModelError: it cannot be read, or is not a JSON object.
    """
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError) as problem:
        raise ModelError(f"The config.json of {folder} cannot be read: {files.reason(problem)}") from None
    if not isinstance(config, dict):
        raise ModelError(f"The config.json of {folder} is not a JSON object.")
    return config


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Returns the safetensors files of a model, in alphabetical order, or the GGUF file that its folder stands for.

    Raises:
        ModelError: there are none, or the index names one that is not there.
    """
    if (file := behind(folder)) is not None:
        return (file,)
    if (folder / SINGLE).is_file():
        return (folder / SINGLE,)
    if (folder / INDEX).is_file():
        return _shards(folder)
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"The weights in {folder} are pickles ({pickles[0]}), which can run any code when opened;"
            " convert them to safetensors first."
        )
    raise ModelError(f"The folder {folder} has no weights: neither {SINGLE} nor {INDEX}.")


def behind(folder: Path) -> Path | None:
    """Returns the GGUF file that a folder stands for; None where the folder has weights of its own.

    Raises:
        ModelError: the file has gone.
    """
    if any((folder / name).is_file() for name in (SINGLE, INDEX)):
        return None
    try:
        file = Path(read_json(folder / ORIGIN)["weights"])
    except (OSError, ValueError, KeyError, TypeError):
        # Not there, or without this.
        return None
    if not file.is_file():
        raise ModelError(f"The GGUF file {file}, which has the weights of {folder}, is not there any more.")
    return file


def _shards(folder: Path) -> tuple[Path, ...]:
    try:
        listed: Any = read_json(folder / INDEX)["weight_map"].values()
        names = sorted(set(listed))
        files = tuple(folder / name for name in names if Path(name).name == name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ModelError(f"The {INDEX} of {folder} cannot be read: {problem!r}") from None
    missing = [file.name for file in files if not file.is_file()]
    if missing or len(files) != len(names) or not files:
        raise ModelError(
            f"The {INDEX} of {folder} names {len(names)} weight files, but the folder does not hold"
            f" {(missing or names or ['a single one'])[0]}."
        )
    return files
