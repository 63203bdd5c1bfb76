"""`mediant compare`: recipes at sizes, judged alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mediant.cli._console import JsonOption, RichProgress, WaitOption, stderr, table_console, writable, write_json
from mediant.cli._model_options import MOST_SEED

if TYPE_CHECKING:
    from rich.table import Table

PUBLISHED_WINDOWS = 60


def command(
    model: Annotated[
        str, typer.Argument(help="A Hugging Face folder, a hub id, a .gguf file, or 'demo'.", show_default=False)
    ],
    size: Annotated[
        list[str],
        typer.Option(metavar="SIZE", help="As for 'compress'; may be given more than once.", show_default=False),
    ],
    recipes: Annotated[
        str, typer.Option(metavar="NAMES", help="Recipes or recipe files, separated by commas.")
    ] = "default,rtn,hqq,gptq",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Where everything is kept.", show_default="compare-MODEL"),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text to measure on. Without it the model writes its own, which takes time."),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Text to score; without it, only the second. A sentence a line for encoders."
        ),
    ] = None,
    second_text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text of another kind, scored too; without it, text that the original writes, or random tokens for "
            "encoders.",
        ),
    ] = None,
    windows: Annotated[
        int, typer.Option(min=1, help="Windows to score: 20 show a trend, published figures take 60 or more.")
    ] = 20,
    window: Annotated[int, typer.Option(min=2, help="Tokens in a window; the second half is scored.")] = 512,
    activation_bits: Annotated[
        int,
        typer.Option(
            min=0, help="Judge with the inputs of linear layers rounded to so many bits, each token by itself; 0: not."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of everything random.")] = 0,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the table as a page.", callback=writable)
    ] = None,
    wait: WaitOption = True,
    json: JsonOption = None,
) -> None:
    """Compare recipes at equal sizes, on the same calibration and the same windows of two texts.

    Example: mediant compare demo --size 60MB --size 50MB --recipes default,rtn,gptq --text wiki.test.raw

    Calibration is done once for all. Every compressed model and every score is kept in DIR, so that a run that is
    stopped, or asked for more recipes, sizes or windows, only does what is missing. Sizes are whole folders.
    """
    from mediant.pipeline.compare import CompareRequest, compare

    name = Path(model).stem or "model"
    asked = CompareRequest(
        model=model,
        out=out or Path(f"compare-{name}"),
        sizes=tuple(size),
        recipes=tuple(part.strip() for part in recipes.split(",") if part.strip()),
        calibration=calibration,
        text=text,
        second=second_text,
        windows=windows,
        window=window,
        seed=seed,
        activation_bits=activation_bits,
        wait=wait,
    )
    progress = RichProgress()
    try:
        found = compare(asked, progress)
    except KeyboardInterrupt:
        progress.say("What is finished is kept; the same command goes on from there.")
        raise
    figures = dataclasses.asdict(found)
    write_json(json, figures)
    if html is not None:
        from mediant.reports.comparison import write_comparison

        write_comparison(html, figures)
    for table in _tables(figures):
        table_console(json).print(table)
    if found.causal and windows < PUBLISHED_WINDOWS:
        stderr.print(f"{windows} windows show a trend; to publish, take --windows {PUBLISHED_WINDOWS}.", style="dim")


def _tables(figures: dict[str, Any]) -> list[Table]:
    from rich.table import Table

    from mediant.reports.comparison import columns, lines, notes

    table = Table(box=None, header_style="dim", caption=notes(figures), caption_justify="left")
    for number, title in enumerate(columns(figures)):
        table.add_column(title, justify="left" if number == 0 else "right")
    for line in lines(figures):
        table.add_row(*line)
    return [table]
