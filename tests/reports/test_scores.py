import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mediant.errors import UsageError
from mediant.evaluation.embeddings import EmbeddingScorecard
from mediant.reports.scores import read_score
from mediant.values import Scorecard

LANGUAGE = Scorecard(0.06, 0.002, 30.2, 28.74, 0.869, 60_000_000, 3.57, 60, 512, 15360, "wiki.test.raw")
ENCODER = EmbeddingScorecard(0.998, 0.0004, 12_000_000, 4.2, 100, "sentences.txt")
CONTEXT = {"candidate": "smol-60", "reference": "demo", "seed": 5, "text_file": None, "per_window": [1, 2]}


def written(folder: Path, data: Any) -> Path:
    path = folder / "scores.json"
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("card", [LANGUAGE, ENCODER])
def test_a_scorecard_is_read_as_it_was_written(tmp_path: Path, card: Scorecard | EmbeddingScorecard) -> None:
    score = read_score(written(tmp_path, {**dataclasses.asdict(card), **CONTEXT}))
    assert score.card == card
    assert (score.candidate, score.reference, score.seed, score.text_file) == ("smol-60", "demo", 5, None)


def test_a_whole_number_is_a_figure_too(tmp_path: Path) -> None:
    assert read_score(written(tmp_path, {**dataclasses.asdict(LANGUAGE), "kl": 0})).card == dataclasses.replace(
        LANGUAGE, kl=0.0
    )


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Scorecard)])
@pytest.mark.parametrize("value", [None, [], float("nan"), float("inf"), 10**400, True])
def test_a_field_that_is_missing_or_no_figure_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    data = {**dataclasses.asdict(LANGUAGE), field: value}
    if value is None:
        del data[field]
    with pytest.raises(UsageError, match=field):
        read_score(written(tmp_path, data))


def test_a_perplexity_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="below 1"):
        read_score(written(tmp_path, {**dataclasses.asdict(LANGUAGE), "reference_perplexity": 0}))


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"{", b"\xff\xfe"])
def test_what_is_no_scorecard_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"bad\.json"):
        read_score(tmp_path / "bad.json")
    with pytest.raises(UsageError, match=r"missing\.json"):
        read_score(tmp_path / "missing.json")
