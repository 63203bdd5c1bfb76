"""The table that `mediant compare` prints, and the page it writes: one row for each recipe at each size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mediant import files
from mediant.planning.size import human

Figures = Mapping[str, Any]
"""A table of pipeline/compare.py as `dataclasses.asdict` gives it."""

UNKNOWN = "–"


def columns(figures: Figures) -> list[str]:
    """Titles: recipe, bytes, bits per weight, the scores on each text, seconds, peak memory."""
    scores = [title for number, _ in enumerate(_texts(figures), 1) for title in _titles(figures, number)]
    return ["recipe", "size", "bits/weight", *scores, "seconds", "memory"]


def lines(figures: Figures) -> list[list[str]]:
    """Returns the cells of every row, in the order in which they were asked for."""
    return [_line(row, figures) for row in figures["rows"]]


def notes(figures: Figures) -> str:
    """Lists the facts that a reader needs to judge the table."""
    texts = [f"text {number}: {text}" for number, text in enumerate(_texts(figures), 1)]
    references = [
        f"original's perplexity {card['reference_perplexity']:.3f}" for card in _cards(figures) if "kl" in card
    ]
    calibration = f"calibrated on: {figures['calibration']}, once for all, in {figures['calibration_seconds']:.0f} s"
    refused = [f"{row['recipe']} at {row['size']}: {row['refusal']}" for row in figures["rows"] if row["refusal"]]
    if bits := figures["activation_bits"]:
        calibration += f"; inputs of linear layers rounded to {bits} bits"
    counted = "sizes are whole folders; ± is one standard error"
    joined = [f"{text}, {more}" for text, more in zip(texts, references, strict=True)] if references else texts
    return "\n".join([*joined, calibration, counted, *refused])


def write_comparison(path: Path, figures: Figures) -> None:
    """Writes the table as one HTML file that needs no network.

    Raises:
        StorageError: the file cannot be written.
    """
    files.write(path, render(figures).encode())


def render(figures: Figures) -> str:
    """Returns the text of the page; the same for the same figures."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("comparison.html").render(
        model=figures["model"],
        weights=figures["weights"],
        columns=columns(figures),
        lines=lines(figures),
        notes=notes(figures).split("\n"),
    )


def _cards(figures: Figures) -> Sequence[Mapping[str, Any]]:
    """Returns the scores of the first row that has any: all rows have the same texts."""
    cards: Sequence[Mapping[str, Any]] = next((row["scores"] for row in figures["rows"] if row["scores"]), ())
    return cards


def _texts(figures: Figures) -> list[str]:
    return [
        f"{card['text']}, {card['windows']} windows of {card['window']}" if "kl" in card
        else f"{card['text']}, {card['sentences']} sentences"
        for card in _cards(figures)
    ]  # fmt: skip


def _titles(figures: Figures, number: int) -> list[str]:
    return [f"KL {number}", f"perplexity {number}", f"top-1 {number}"] if figures["causal"] else [f"cosine {number}"]


def _line(row: Mapping[str, Any], figures: Figures) -> list[str]:
    if row["refusal"]:
        return [row["recipe"], f"{row['size']}: not possible", *[UNKNOWN] * (len(columns(figures)) - 2)]
    scores = [cell for card in row["scores"] for cell in _cells(card)]
    memory = human(row["peak_memory_bytes"])
    return [
        row["recipe"],
        human(row["bytes"]),
        f"{row['bits_per_weight']:.3f}",
        *scores,
        f"{row['seconds']:.0f}",
        memory,
    ]


def _cells(card: Mapping[str, Any]) -> list[str]:
    if "kl" in card:
        return [f"{card['kl']:.4f} ± {card['kl_se']:.4f}", f"{card['perplexity']:.2f}", f"{100 * card['top1']:.1f} %"]
    return [f"{card['cosine']:.5f} ± {card['cosine_se']:.5f}"]
