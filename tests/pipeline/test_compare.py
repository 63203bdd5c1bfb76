"""compare: every row is what compress and evaluate give alone, and nothing is done twice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mediant import files
from mediant.errors import PlanError, TextError, UsageError
from mediant.evaluation.scoring import Candidate, evaluate, evaluate_encoder
from mediant.models.opening import open_model
from mediant.pipeline import compare as compare_module
from mediant.pipeline.compare import CompareRequest, compare
from mediant.reports.comparison import columns, lines, notes, render
from mediant.runtime.loading import load

RECIPES = ("rtn", "gptq", "awq", "owq", "smoothquant")


@pytest.fixture(scope="module")
def asked(tiny_folder, text, feasible, tmp_path_factory):
    size = str((feasible("llama", "owq")[0] + feasible("llama", "rtn")[1]) // 2)
    return CompareRequest(
        str(tiny_folder("llama")), tmp_path_factory.mktemp("compare") / "c", (size, "1"), RECIPES, text, text,
        windows=2, window=64,
    )  # fmt: skip


@pytest.fixture(scope="module")
def answer(asked):
    return compare(asked)


def test_rows_are_in_the_order_asked_and_keep_to_their_sizes(asked, answer):
    assert [(row.size, row.recipe) for row in answer.rows] == [(s, r) for s in asked.sizes for r in asked.recipes]
    for row in answer.rows[: len(RECIPES)]:
        assert 0.9 * int(asked.sizes[0]) < row.bytes <= int(asked.sizes[0])
        assert row.seconds > 0
        assert row.peak_memory_bytes > 0
        assert len(row.scores) == 2
    for row in answer.rows[len(RECIPES) :]:
        assert "cannot be met" in row.refusal
        assert not row.scores


def test_scores_are_those_of_evaluate(asked, answer):
    folder = asked.out / f"gptq-{asked.sizes[0]}"
    model = open_model(asked.model)
    candidate = Candidate(lambda: load(folder), files.folder_bytes(folder), model.weights)
    for text, found in zip((asked.text, None), answer.rows[1].scores, strict=True):
        alone = evaluate(candidate, model, text, asked.windows, asked.window, asked.seed)
        assert found == dataclasses.asdict(alone.scorecard)
    assert answer.rows[0].scores[0]["kl"] != answer.rows[1].scores[0]["kl"]


def test_the_same_question_does_nothing_again(asked, answer, monkeypatch):
    def refuse(*_):
        raise AssertionError("done again")

    monkeypatch.setattr(compare_module._Work, "_make", refuse)
    monkeypatch.setattr(compare_module._Scores, "_measured", refuse)
    assert compare(asked) == answer
    monkeypatch.undo()
    monkeypatch.setattr(compare_module._Work, "_make", refuse)
    other = compare(dataclasses.replace(asked, windows=1, sizes=asked.sizes[:1], recipes=("rtn",)))
    assert other.rows[0].scores[0]["windows"] == 1


def test_rounded_inputs_cost_more_and_have_scores_of_their_own(asked, answer):
    for number, recipe in ((0, "rtn"), (4, "smoothquant")):
        coarse = compare(dataclasses.replace(asked, recipes=(recipe,), sizes=asked.sizes[:1], activation_bits=3))
        assert coarse.rows[0].scores[0]["kl"] > answer.rows[number].scores[0]["kl"]
        assert "rounded to 3 bits" in notes(dataclasses.asdict(coarse))


def test_the_table_says_it_all(answer):
    figures = dataclasses.asdict(answer)
    rows = lines(figures)
    assert {len(row) for row in rows} == {len(columns(figures))}
    assert rows[0][0] == "rtn"
    assert "not possible" in rows[-1][1]
    for part in ("text.txt", "written by the reference", "cannot be met", "standard error"):
        assert part in notes(figures)
    page = render(figures)
    assert page.count("<tr>") == 1 + len(rows)
    assert "http" not in page


def test_an_encoder_is_judged_by_cosines(tiny_folder, text, feasible, tmp_path):
    size = str(sum(feasible("bert", "rtn")) // 2)
    sentences = tmp_path / "sentences.txt"
    sentences.write_text("the quick brown fox\njumps over the lazy dog\n")
    asked = CompareRequest(
        str(tiny_folder("bert")), tmp_path / "c", (size,), ("rtn",), text, sentences, windows=3, window=16
    )
    answer = compare(asked)
    cards = answer.rows[0].scores
    assert [card["sentences"] for card in cards] == [2, 3]
    model, folder = open_model(asked.model), asked.out / f"rtn-{size}"
    candidate = Candidate(lambda: load(folder), files.folder_bytes(folder), model.weights)
    assert cards[0]["cosine"] == evaluate_encoder(candidate, model, sentences).cosine < 1
    assert lines(dataclasses.asdict(answer))[0][3].startswith(f"{cards[0]['cosine']:.5f}")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"recipes": ()}, UsageError, "at least one"),
        ({"sizes": ()}, UsageError, "at least one"),
        ({"sizes": ("1", "1")}, UsageError, "twice"),
        ({"activation_bits": 1}, UsageError, "0 or 2 to 16"),
        ({"recipes": ("rtn", "nothing")}, PlanError, "no recipe or file 'nothing'"),
        ({"text": Path("/")}, TextError, "cannot be read"),
        ({"second": Path("/nowhere.txt")}, TextError, "no text file"),
    ],
)
def test_questions_without_an_answer_are_refused(asked, change, error, words):
    with pytest.raises(error, match=words):
        compare(dataclasses.replace(asked, **change))
