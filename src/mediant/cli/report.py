"""`mediant report`: one HTML page on a compressed model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mediant.cli._console import RichProgress, WaitOption, stdout
from mediant.errors import UsageError


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A compressed model.", show_default=False)],
    scores: Annotated[
        list[Path] | None,
        typer.Option(metavar="JSON", help="What 'evaluate --json' wrote; may be given more than once."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Page to write.", show_default="DIR-report.html beside DIR")
    ] = None,
    wait: WaitOption = True,
) -> None:
    """Write one HTML page that says what a compression did and what it cost.

    Example: mediant report smol-60 --scores smol-60.json

    The page needs no network and no scripts. Scores of other models may be given too, to compare them.
    """
    from mediant.checkpoint.reader import open_checkpoint
    from mediant.claims import claimed
    from mediant.cli._opening import existing
    from mediant.reports.html import write_report
    from mediant.reports.scores import read_score
    from mediant.reports.summary import summarize

    target = out or folder.resolve().with_name(f"{folder.resolve().name}-report.html")
    if target.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{target} would become part of the compressed model; name a file outside {folder}.")
    folder = existing(folder)
    manifest = open_checkpoint(folder).manifest
    sizes = {f.relative_to(folder).as_posix(): f.stat().st_size for f in sorted(folder.rglob("*")) if f.is_file()}
    with claimed(target, RichProgress(), wait):
        write_report(target, summarize(manifest, sizes), [read_score(path) for path in scores or ()])
    stdout.print(f"[bold]{target}[/bold]", soft_wrap=True)
