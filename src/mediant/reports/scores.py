"""Reads the JSON files that `mediant evaluate` writes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mediant import files
from mediant.errors import UsageError
from mediant.evaluation.embeddings import EmbeddingScorecard
from mediant.files import read_json
from mediant.values import Scorecard

Card = Scorecard | EmbeddingScorecard
LARGEST = 1e300


@dataclass(frozen=True)
class Score:
    """One scorecard, what was judged, against what, and how to judge it again."""

    candidate: str
    reference: str
    seed: int
    text_file: str | None
    card: Card


def read_score(path: Path) -> Score:
    """Returns the score in a file.

    Raises:
        UsageError: the file cannot be read, or is not what `mediant evaluate --json` writes.
    """
    try:
        data = read_json(path)
    except OSError as problem:
        raise UsageError(f"The scores {path} cannot be read: {files.reason(problem)}.") from None
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise UsageError(f"{path} is not a JSON object as `mediant evaluate --json` writes it.")
    text_file = data.get("text_file")
    return Score(
        candidate=str(data.get("candidate", "?")),
        reference=str(data.get("reference", "?")),
        seed=int(_field(data, "seed", "int", path)) if "seed" in data else 0,
        text_file=None if text_file is None else str(text_file),
        card=_card(data, path),
    )


def _card(data: dict[str, Any], path: Path) -> Card:
    kind: type[Card] = EmbeddingScorecard if "cosine" in data else Scorecard
    card = kind(**{f.name: _field(data, f.name, str(f.type), path) for f in dataclasses.fields(kind)})
    if isinstance(card, Scorecard) and not card.reference_perplexity >= 1:
        raise UsageError(f"The scores {path} have a perplexity below 1, which no model reaches.")
    return card


def _field(data: dict[str, Any], name: str, kind: str, path: Path) -> Any:
    value: Any = data.get(name)
    accepted = {"int": (int,), "float": (int, float), "str": (str,)}[kind]
    if type(value) not in accepted or (kind != "str" and not abs(value) < LARGEST):
        raise UsageError(
            f"The scores {path} lack {name!r}, or it is no {kind}; write them with mediant evaluate --json."
        )
    return value
