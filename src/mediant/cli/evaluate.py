"""`mediant evaluate`: what a model lost against its reference."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from mediant.cli._console import JsonOption, RichProgress, stderr, table_console, write_json
from mediant.cli._model_options import MOST_SEED
from mediant.errors import ModelError

if TYPE_CHECKING:
    from mediant.evaluation.embeddings import EmbeddingScorecard
    from mediant.evaluation.scoring import Measurement

PUBLISHED_WINDOWS = 60
# Of text that the original writes beside a text that was given; writing takes longer than scoring.
OWN_WINDOWS = 8


def command(
    candidate: Annotated[
        str, typer.Argument(help="A compressed model, or any model that 'compress' takes.", show_default=False)
    ],
    reference: Annotated[
        str,
        typer.Option(
            metavar="MODEL", help="The original: a folder, a hub id, a .gguf file or 'demo'.", show_default=False
        ),
    ],
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Text to score; without it the original writes some. A sentence a line for encoders."
        ),
    ] = None,
    second_text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text of another kind to score beside --text; without it, text that the original writes.",
        ),
    ] = None,
    windows: Annotated[
        int, typer.Option(min=1, help="Windows to score: 20 show a trend, published figures take 60 or more.")
    ] = 20,
    window: Annotated[int, typer.Option(min=2, help="Tokens in a window; the second half is scored.")] = 512,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the text that the original writes.")] = 0,
    json: JsonOption = None,
) -> None:
    """Measure what a compressed model lost: KL divergence, perplexity, agreement, size.

    Example: mediant evaluate smol-60 --reference demo --text wiki.test.raw --windows 60

    The text is cut into windows from its start. Both models read each; at every token of the second half their
    distributions are compared. Nothing large is kept, in memory or on disk. A figure from one text can flatter, above
    all where calibration read text of the same kind, so a second text is always scored beside one that is given.
    """
    from mediant.cli._opening import opened, plain
    from mediant.evaluation.memory import peak_bytes
    from mediant.evaluation.scoring import Candidate, evaluate, evaluate_encoder

    progress = RichProgress()
    judged, original = opened(candidate, progress), plain(reference, progress)
    if judged.causal != original.causal:
        kinds = [("a language model" if m.causal else "an encoder") for m in (judged, original)]
        raise ModelError(f"{candidate} is {kinds[0]} and {reference} is {kinds[1]}; they cannot be compared.")
    subject = Candidate(judged.load, judged.bytes, judged.weights)
    if original.causal:
        measured = evaluate(subject, original, text, windows, window, seed, progress)
        figures, table = _figures(measured), _table(measured)
        if text is not None:
            fewer = windows if second_text else min(windows, OWN_WINDOWS)
            second = evaluate(subject, original, second_text, fewer, window, seed, progress)
            figures["second"] = _figures(second)
            _add_second(table, second)
    else:
        card = evaluate_encoder(subject, original, text, windows, window, seed, progress)
        figures, table = dataclasses.asdict(card), _encoder_table(card)
    context = {
        "candidate": candidate,
        "reference": reference,
        "reference_fingerprint": original.fingerprint,
        "text_file": None if text is None else str(text),
        "seed": seed,
        "peak_memory_bytes": peak_bytes(),
    }
    write_json(json, {**figures, **context})
    table_console(json).print(table)
    if original.causal and windows < PUBLISHED_WINDOWS:
        stderr.print(f"{windows} windows show a trend; to publish, take --windows {PUBLISHED_WINDOWS}.", style="dim")


def _figures(measured: Measurement) -> dict[str, Any]:
    found = measured.comparison
    more = {"kl_se_tokens": found.kl_se_tokens, "top1_se": found.top1_se, "per_window": found.per_window()}
    return {**dataclasses.asdict(measured.scorecard), **more}


def _table(measured: Measurement) -> Table:
    card, found = measured.scorecard, measured.comparison
    change = 100 * (card.perplexity / card.reference_perplexity - 1)
    table = _empty(f"{card.tokens} tokens scored in {card.windows} windows of {card.window}; text: {card.text}")
    table.add_row("KL divergence", f"{card.kl:.4f} ± {card.kl_se:.4f} nats per token")
    table.add_row(
        "perplexity", f"{card.perplexity:.3f}; the original's is {card.reference_perplexity:.3f} ({change:+.1f} %)"
    )
    table.add_row("same first choice", f"{100 * card.top1:.1f} ± {100 * found.top1_se:.1f} % of the tokens")
    return _with_size(table, card.bytes, card.bits_per_weight)


def _add_second(table: Table, measured: Measurement) -> None:
    card, found = measured.scorecard, measured.comparison
    table.add_row(
        "on a second text",
        f"KL {card.kl:.4f} ± {card.kl_se:.4f}, perplexity {card.perplexity:.3f} "
        f"({card.reference_perplexity:.3f}), same first choice {100 * card.top1:.1f} ± {100 * found.top1_se:.1f} %; "
        f"{card.windows} windows, {card.text}",
    )


def _encoder_table(card: EmbeddingScorecard) -> Table:
    table = _empty(f"{card.sentences} sentences; text: {card.text}")
    table.add_row("cosine", f"{card.cosine:.5f} ± {card.cosine_se:.5f} of the sentence vectors to the original's")
    return _with_size(table, card.bytes, card.bits_per_weight)


def _empty(caption: str) -> Table:
    table = Table(show_header=False, box=None, caption=caption, caption_justify="left")
    table.add_column(style="dim")
    return table


def _with_size(table: Table, size: int, bits: float) -> Table:
    from mediant.planning.size import human

    table.add_row("size", f"{human(size)} ({size} bytes), {bits:.3f} bits per weight, everything counted")
    return table
