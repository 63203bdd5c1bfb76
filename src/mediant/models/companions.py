"""The files that travel with the weights: configuration, tokenizer, generation defaults, model card.

Losing the tokenizer or the chat template is a standing complaint about converted models; their bytes count towards
the size a person names, so JSON is written without white space.
"""

from __future__ import annotations

import json
from pathlib import Path

from mediant.errors import ModelError
from mediant.models.configuration import sealed
from mediant.models.tokenizer import seal
from mediant.values import Model

CARD = "README.md"

TOKENIZER_FILES: tuple[str, ...] = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "preprocessor_config.json",
)
# Only needed where there is no tokenizer.json, which holds the same vocabulary.
SLOW_TOKENIZER_FILES: tuple[str, ...] = (
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
)


def companion_files(model: Model, card: str) -> dict[str, bytes]:
    """Name and content of every file beside the weights, in a fixed order.

    Raises:
        ModelError: one that should be JSON is not.
    """
    contents = {file.name: _content(file) for file in tokenizer_files(model.path)}
    contents["config.json"] = _compact(sealed(model.config, model.name, seal(model.path, model.config, contents)))
    contents[CARD] = card.encode()
    return dict(sorted(contents.items()))


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a model's folder that are neither weights nor configuration nor card."""
    names = TOKENIZER_FILES
    if not (folder / "tokenizer.json").exists():
        names += SLOW_TOKENIZER_FILES
    return [folder / name for name in names if (folder / name).is_file()]


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix != ".json":
        return data
    try:
        return _compact(json.loads(data))
    except (ValueError, RecursionError) as problem:
        raise ModelError(f"The file {path} is not JSON: {problem}.") from None


def _compact(data: object) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
