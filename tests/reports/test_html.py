import dataclasses
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mediant.checkpoint.manifest import Manifest
from mediant.errors import StorageError
from mediant.evaluation.embeddings import EmbeddingScorecard
from mediant.reports.html import commands, cost, render, with_error, write_report
from mediant.reports.scores import Score
from mediant.reports.summary import Summary, summarize
from mediant.values import Scorecard

HOSTILE = "<script>alert('x')</script> $x^2$ & \"q\" {{ 7*7 }} --> ]]>"
VOID = {"meta", "link", "br", "img", "input"}


@pytest.fixture
def summary(manifest: Manifest, file_sizes: dict[str, int]) -> Summary:
    return summarize(manifest, file_sizes)


def language(size: int, text: str = "wiki.test.raw") -> Score:
    card = Scorecard(0.0604, 0.0021, 30.2, 28.74, 0.869, size, 3.57, 60, 512, 15360, text)
    return Score(HOSTILE, "demo", 0, text, card)


class Page(HTMLParser):
    """The page as a browser takes it apart: its tags, its attributes, what it shows. Fails on unbalanced tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.shown = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.shown += data


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_page_is_self_contained_and_without_scripts(summary: Summary) -> None:
    text = render(summary, [language(summary.bytes)])
    page = Page(text)
    assert "script" not in page.tags
    assert {"link", "img", "iframe", "object", "embed", "form"}.isdisjoint(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "srcset")]
    assert all(value.startswith("#") for name, value in page.attributes if name.endswith("href"))
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert text.startswith("<!doctype html>")


def test_hostile_names_are_shown_and_not_obeyed(summary: Summary) -> None:
    page = Page(render(summary, [language(summary.bytes, HOSTILE)]))
    assert words(page.shown).count(words(HOSTILE)) >= 6  # title, heading, tensors, scores, commands


def test_without_scores_the_page_says_how_to_get_them(summary: Summary) -> None:
    shown = words(Page(render(summary)).shown)
    assert "What it cost has not been measured: run mediant evaluate" in shown
    assert "same first choice 86.9 %" not in shown


def test_the_headline_is_of_this_checkpoint_and_not_of_another(summary: Summary) -> None:
    other = dataclasses.replace(language(summary.bytes + 1), card=language(summary.bytes + 1).card)
    assert "has not been measured" in Page(render(summary, [other])).shown
    shown = words(Page(render(summary, [other, language(summary.bytes)])).shown)
    assert words(cost(language(1).card)) in shown
    assert "0.0604 ± 0.0021" in shown


def test_all_figures_of_the_checkpoint_are_there(summary: Summary) -> None:
    shown = words(Page(render(summary)).shown)
    for row in summary.tensors:
        assert words(row.name) in shown
        assert f"{row.bits:.2f}" in shown
    assert f"{summary.bytes:,} bytes" in shown
    assert f"{summary.bits_per_weight:.3f}" in shown
    assert "my text.txt, 8,192 tokens" in shown
    assert "fingerprint ffffffffffffffff" in shown


def test_an_encoder_has_its_own_scores(summary: Summary) -> None:
    card = EmbeddingScorecard(0.9981, 0.0004, summary.bytes, 4.2, 100, "sentences.txt")
    shown = words(Page(render(summary, [Score("mini", "demo", 0, "sentences.txt", card)])).shown)
    assert "mean cosine of 0.9981" in shown
    assert "0.99810 ± 0.00040" in shown
    assert "perplexity is" not in shown


def test_the_commands_can_be_pasted(summary: Summary) -> None:
    compress, evaluate, other = commands(summary, [language(summary.bytes), language(summary.bytes), language(7)])
    assert shlex.split(compress) == [
        "mediant", "compress", "demo", "--out", "compressed", "--recipe", "default", "--seed", "3",
        "--size", "20000", "--calibration", "my text.txt",
    ]  # fmt: skip
    assert shlex.split(evaluate) == [
        "mediant", "evaluate", "compressed", "--reference", "demo", "--text", "wiki.test.raw",
        "--windows", "60", "--window", "512",
    ]  # fmt: skip
    assert shlex.split(other)[2] == HOSTILE
    assert shlex.split(commands(summary, [])[0])[2] == HOSTILE


def test_the_cost_is_one_plain_sentence() -> None:
    assert cost(language(1).card) == (
        "It ranks the same next token first as the original at 86.9 % of the places tested, and its perplexity is "
        "30.20 where the original's is 28.74 (+5.1 %)."
    )


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.0604, 0.0021, "0.0604 ± 0.0021"),
        (12.3456, 1.5, "12.3 ± 1.5"),
        (1234.5, 150, "1234 ± 150"),
        (0.5, 0, "0.5 ± 0"),
    ],
)
def test_a_figure_has_as_many_digits_as_its_error_allows(value: float, error: float, text: str) -> None:
    assert with_error(value, error) == text


def test_the_page_is_the_same_every_time(summary: Summary) -> None:
    assert render(summary) == render(summary)


def test_a_page_that_cannot_be_written_is_said(summary: Summary, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_report(tmp_path / "file" / "report.html", summary)
    write_report(tmp_path / "new" / "report.html", summary)
    assert (tmp_path / "new" / "report.html").read_text() == render(summary)
