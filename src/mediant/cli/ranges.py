"""`mediant ranges`: fix the ranges of activations, for static integer arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mediant.cli._console import JsonOption, RichProgress, WaitOption, write_json

METHODS = ("min_max", "percentile", "kl")


def command(
    model: Annotated[
        str, typer.Argument(metavar="{model}", help="A compressed model, or its id on the hub.", show_default=False)
    ],
    calibration: Annotated[Path, typer.Option(metavar="FILE", help="Text to measure on.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write them.", show_default=False)],
    method: Annotated[
        str, typer.Option(metavar="METHOD", help="min_max clips nothing of that text; percentile and kl clip outliers.")
    ] = "min_max",
    windows: Annotated[int, typer.Option(min=1, help="Windows of text, from its beginning.")] = 16,
    window: Annotated[int, typer.Option(min=16, help="Tokens of a window.")] = 512,
    wait: WaitOption = True,
    json: JsonOption = None,
) -> None:
    """Fix the ranges of activations, so that integer kernels need not look for them in every token.

    Example: mediant ranges smol-60 --calibration text.txt --out smol-60.ranges

    Then: mediant generate smol-60 "The sea is" --activations 8 --activation-ranges smol-60.ranges
    """
    from mediant import files
    from mediant.claims import claimed
    from mediant.errors import UsageError
    from mediant.evaluation.windows import cut
    from mediant.models.source import locate
    from mediant.runtime import static_ranges
    from mediant.statistics.calibration_text import token_ids

    if method not in METHODS:
        raise UsageError(f"There is no method {method!r}; it is {', '.join(METHODS[:-1])} or {METHODS[-1]}.")
    progress = RichProgress()
    folder = locate(model, progress)
    text = cut(token_ids(folder, calibration), windows, window)
    with claimed(out, progress, wait):
        files.check_writable(out)
        found = static_ranges.measure(folder, text, {"name": method}, progress)
        static_ranges.write(out, found)
    progress.say(f"{out}: ranges of the inputs of {len(found)} matrices, by {method} over {text.numel()} tokens.")
    write_json(json, {"out": str(out), "method": method, "tokens": text.numel(), "matrices": len(found)})
