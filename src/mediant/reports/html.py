"""Writes what a compression did and what it cost as one HTML file: no network, no scripts, charts inline."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mediant import files
from mediant.evaluation.embeddings import EmbeddingScorecard
from mediant.planning.size import human
from mediant.reports import figures
from mediant.reports.scores import Card, Score
from mediant.reports.summary import Summary


def write_report(path: Path, summary: Summary, scores: Sequence[Score] = ()) -> None:
    """Writes the report on a checkpoint.

    Args:
        path: the file to write.
        summary: the checkpoint.
        scores: measurements, of this checkpoint or of others to compare it with.

    Raises:
        StorageError: the file cannot be written.
    """
    files.write(path, render(summary, scores).encode())


def render(summary: Summary, scores: Sequence[Score] = ()) -> str:
    """Returns the text of the report; the same for the same arguments."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"human": human, "percent": percent, "error": with_error, "short": short}
    own = [score for score in scores if score.card.bytes == summary.bytes]
    return environment.get_template("report.html").render(
        summary=summary,
        language=[s for s in scores if not isinstance(s.card, EmbeddingScorecard)],
        encoder=[s for s in scores if isinstance(s.card, EmbeddingScorecard)],
        main=own[0] if own else None,
        cost=cost(own[0].card) if own else None,
        bits=figures.bits_by_layer(summary.tensors),
        errors=figures.error_by_bits(summary.tensors),
        kinds=figures.bytes_by_kind(summary.bytes_by_kind()),
        commands=commands(summary, scores),
    )


def cost(card: Card) -> str:
    """Puts the cost of a compression in one plain sentence."""
    if isinstance(card, EmbeddingScorecard):
        return (
            f"Its sentence vectors have a mean cosine of {card.cosine:.4f} to the original's over {card.sentences} "
            "sentences, where 1 means the same direction."
        )
    change = 100 * (card.perplexity / card.reference_perplexity - 1)
    return (
        f"It ranks the same next token first as the original at {percent(card.top1)} of the places tested, and its "
        f"perplexity is {card.perplexity:.2f} where the original's is {card.reference_perplexity:.2f} "
        f"({change:+.1f} %)."
    )


def commands(summary: Summary, scores: Sequence[Score]) -> list[str]:
    """Returns the command lines that make the checkpoint and its scores again."""
    own = [score.reference for score in scores if score.card.bytes == summary.bytes]
    compress = ["mediant", "compress", (own or [summary.model.name])[0], "--out", "compressed"]
    compress += ["--recipe", summary.recipe, "--seed", str(summary.seed)]
    if summary.target_bytes:
        compress += ["--size", str(summary.target_bytes)]
    if summary.calibration and summary.calibration.source.startswith("file "):
        compress += ["--calibration", summary.calibration.source.removeprefix("file ")]
    return [shlex.join(compress), *dict.fromkeys(_evaluation(score, summary) for score in scores)]


def _evaluation(score: Score, summary: Summary) -> str:
    own = score.card.bytes == summary.bytes
    line = ["mediant", "evaluate", "compressed" if own else score.candidate, "--reference", score.reference]
    line += ["--text", score.text_file] if score.text_file else ["--seed", str(score.seed)]
    if not isinstance(score.card, EmbeddingScorecard):
        line += ["--windows", str(score.card.windows), "--window", str(score.card.window)]
    return shlex.join(line)


def percent(share: float, digits: int = 1) -> str:
    """Returns a share of one as per cent.

    >>> percent(0.8694)
    '86.9 %'
    """
    return f"{100 * share:.{digits}f} %"


def with_error(value: float, error: float) -> str:
    """Returns a figure and its standard error, to two digits of the error.

    >>> with_error(0.060412, 0.002149), with_error(0.5, 0)
    ('0.0604 ± 0.0021', '0.5 ± 0')
    """
    if not 0 < error < math.inf:
        return f"{value:.4g} ± {error:g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def short(value: float) -> str:
    """Returns a number in three digits.

    >>> short(0.001234), short(0.0)
    ('0.00123', '0')
    """
    return f"{value:.3g}"
