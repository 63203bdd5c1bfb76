"""`mediant export`: a model in the form that another program loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mediant import exporters
from mediant.cli._console import RichProgress, WaitOption

USUAL = "huggingface"


def _formats() -> str:
    return " ".join(f"{name}: {exporters.exporter(name).HELP}" for name in exporters.formats())


def _types() -> str:
    found = {name: exporters.exporter(name) for name in exporters.formats()}
    return "; ".join(f"{', '.join(e.TYPES)} for {name} ({e.USUAL} by default)" for name, e in found.items())


def command(
    model: Annotated[str, typer.Argument(help="A compressed model, or any model that 'compress' takes.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="PATH", help="What to write: a folder or a file, as the format has it."),
    ],
    format: Annotated[str, typer.Option(metavar="FORMAT", help=_formats())] = USUAL,
    kind: Annotated[
        str | None,
        typer.Option("--type", metavar="TYPE", help=f"Of the weights: {_types()}.", show_default=False),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(help="Read back what was written and compare it with the model, before it takes its place."),
    ] = True,
    wait: WaitOption = True,
) -> None:
    """Write a model so that other programs load it without Mediant.

    Example: mediant export smol-pruned --format gguf --type q8_0 --out smol-pruned.gguf
    """
    from mediant.claims import claimed

    progress = RichProgress()
    exporter = exporters.exporter(format)
    with claimed(out, progress, wait):
        exporter.export(model, out, kind or exporter.USUAL, progress, check)
    progress.say(f"Wrote {out}.")
