"""Which tokens begin, end and pad a text: one answer for all commands.

Three files speak of it. `generation_config.json` says at which tokens a model stops, and goes before `config.json`, as
in transformers. The tokenizer's end token ends a text too: in a model that was tuned to chat, it is often the only one
that was kept up to date. So a text ends at the tokenizer's and at all that the configuration in force lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mediant import files
from mediant.errors import ModelError
from mediant.files import read_json
from mediant.models.configuration import configuration
from mediant.models.tokenizer import Tokenizer, open_tokenizer

GENERATION_FILE = "generation_config.json"
NONE = -1  # as some configurations write that there is no such token


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of special tokens.

    Attributes:
        begin: before a text; None where there is none.
        end: behind a text, the one that a format with room for one should name.
        padding: beside shorter texts of a batch.
        ends: every token that ends a text, `end` among them.
        begins: a text is given `begin` before it when it is encoded.
    """

    begin: int | None
    end: int | None
    padding: int | None
    ends: frozenset[int]
    begins: bool


def special_tokens(folder: Path, tokenizer: Tokenizer | None = None) -> SpecialTokens:
    """Returns the special tokens of the model or checkpoint in a folder; its tokenizer is opened if it is not given.

    Raises:
        ModelError: a file names a token that is no whole number or has no row in the embedding.
    """
    tokenizer = tokenizer or open_tokenizer(folder)
    rows = vocabulary(folder)

    def ids(name: str) -> list[int]:
        """Returns the tokenizer's, then those of the configuration in force."""
        known = tokenizer.settings.special.get(f"{name}_token")
        own = None if known is None else tokenizer.token_id(known)
        where, given = _configured(folder, f"{name}_token_id")
        return [*_checked(own, rows, f"The tokenizer of {folder}", name), *_checked(given, rows, where, name)]

    ends, begins, paddings = ids("eos"), ids("bos"), ids("pad")
    begin = begins[0] if begins else None
    return SpecialTokens(
        begin=begin,
        end=ends[0] if ends else None,
        padding=paddings[0] if paddings else None,
        ends=frozenset(ends),
        begins=begin is not None and tokenizer.encode("a")[:1] == [begin],
    )


def vocabulary(folder: Path) -> int:
    """Returns the number of tokens that the model in a folder has rows for.

    Raises:
        ModelError: its configuration does not say.
    """
    entries = configuration(folder).entries
    found = entries.get("vocab_size", (entries.get("text_config") or {}).get("vocab_size"))
    if type(found) is not int or found < 1:
        raise ModelError(f"The config.json of {folder} gives vocab_size as {found!r}, not as a positive whole number.")
    return found


def check_ids(ids: Sequence[int], folder: Path, tokenizer: Tokenizer | None = None, text: str = "the text") -> None:
    """Checks that a model has a row in its embedding for every token of a text.

    Raises:
        ModelError: it lacks one.
    """
    highest, rows = max(ids, default=0), vocabulary(folder)
    if highest >= rows:
        name = (tokenizer or open_tokenizer(folder)).token(highest)
        raise ModelError(
            f"The tokenizer gives {name!r} in {text} the id {highest}, but the model in {folder} has the tokens 0 to"
            f" {rows - 1} alone: leave it out, or put the model's own tokenizer there."
        )


def _configured(folder: Path, name: str) -> tuple[str, Any]:
    """Returns the file in force, and what it says: that of generation, where it speaks of the entry, else the
    configuration.
    """
    file = folder / GENERATION_FILE
    if file.is_file():
        try:
            given = read_json(file)
        except (OSError, ValueError) as problem:
            raise ModelError(f"The file {file} cannot be read: {files.reason(problem)}") from None
        if isinstance(given, dict) and given.get(name) is not None:
            return str(file), given[name]
    found = configuration(folder)
    given = found.entries.get(name, (found.entries.get("text_config") or {}).get(name))
    if name not in found.telling and type(given) is int and given >= vocabulary(folder):
        given = None  # the default of the configuration's class, made for another vocabulary
    return f"The config.json of {folder}", given


def _checked(given: Any, rows: int, where: str, name: str) -> list[int]:
    found = given if isinstance(given, list) else [given]
    ids = [token for token in found if token is not None and token != NONE]
    for token in ids:
        if type(token) is not int or not 0 <= token < rows:
            raise ModelError(f"{where} gives {name}_token_id as {token!r}; the model has the tokens 0 to {rows - 1}.")
    return ids
