"""`mediant prune`: parts or single weights of a model taken away."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from mediant.cli._console import JsonOption, RichProgress, WaitOption, stderr, table_console, write_json
from mediant.cli._model_options import MOST_SEED
from mediant.errors import UsageError

Score = Literal["random", "magnitude", "wanda", "sparsegpt", "influence"]
AMOUNT = "N|SHARE"


def command(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder, a hub id, a .gguf file, or 'demo'.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write.")],
    layers: Annotated[
        str | None, typer.Option(metavar=AMOUNT, help="Whole blocks to drop: those that change the stream least.")
    ] = None,
    neurons: Annotated[
        str | None, typer.Option(metavar=AMOUNT, help="MLP neurons to take from every layer, such as 25%.")
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(metavar=AMOUNT, help="Key and value heads to take from every layer, with the queries they serve."),
    ] = None,
    hidden: Annotated[
        str | None, typer.Option(metavar=AMOUNT, help="Components of the hidden width to take from the whole model.")
    ] = None,
    sparsity: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Share of single weights to set to zero in linear layers: 50%.")
    ] = None,
    pattern: Annotated[
        str,
        typer.Option(
            metavar="PATTERN",
            help="Where zeros may lie: row (each row the same share), matrix, N:M (2:4 keeps 2 of 4) or blocks.",
        ),
    ] = "row",
    score: Annotated[
        Score | None,
        typer.Option(
            metavar="SCORE",
            help="What is worth least: random, magnitude, wanda, sparsegpt (weights that stay make up for others) or "
            "influence. By default sparsegpt for weights, influence for parts.",
        ),
    ] = None,
    refit: Annotated[
        bool | None,
        typer.Option(
            "--refit/--no-refit",
            help="Refit what leads out of thinned parts, to make up for the rest. By default with scores that look at "
            "text.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text to measure on. Without it the model writes its own, which takes time."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of everything random.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Take up what a stopped run left beside DIR, or start anew.")
    ] = True,
    wait: WaitOption = True,
    json: JsonOption = None,
) -> None:
    """Take whole parts away from a model, or set single weights to zero.

    Example: mediant prune demo --neurons 25% --out smol-thin

    Without --sparsity and N:M the result is an ordinary, smaller model that any program loads. With them it is a
    compressed folder that stores only what is not zero; 'mediant export' writes it out in full.
    """
    from mediant import files
    from mediant.pipeline.prune import PruneRequest, prune
    from mediant.pipeline.request import CompressRequest

    parts = {"layers": layers, "neurons": neurons, "heads": heads, "hidden": hidden}
    wanted = PruneRequest(
        {n: v for n, v in parts.items() if v is not None}, _pattern(pattern, sparsity), score, refit=refit
    )
    progress = RichProgress()
    request = CompressRequest(model, out, calibration=calibration, seed=seed, resume=resume, wait=wait)
    try:
        prune(request, wanted, progress)
    except KeyboardInterrupt:
        progress.say("What is finished is kept; the same command goes on from there.")
        raise
    size = files.folder_bytes(out)
    write_json(json, {"out": str(out), "bytes": size, "parts": wanted.parts, "pattern": wanted.pattern, "seed": seed})
    table_console(json).print(f"[bold]{escape(str(out))}[/bold]: {size / 1e6:.2f} MB ({size} bytes).", soft_wrap=True)
    next_command = f"mediant evaluate {shlex.quote(str(out))} --reference {shlex.quote(model)}"
    stderr.print(f"What it cost: {escape(next_command)}", style="dim", soft_wrap=True)


def _pattern(pattern: str, sparsity: str | None) -> dict[str, Any]:
    """Returns the spec of a pattern; empty where no weights are to be pruned.

    >>> _pattern("2:4", None), _pattern("row", "50%"), _pattern("row", None)
    ({'name': 'n_of_m', 'n': 2, 'm': 4}, {'name': 'unstructured', 'sparsity': 0.5, 'scope': 'row'}, {})
    """
    if match := re.fullmatch(r"(\d{1,4}):(\d{1,4})", pattern):
        if sparsity is not None:
            raise UsageError(f"--pattern {pattern} says how much is pruned; leave --sparsity out.")
        return {"name": "n_of_m", "n": int(match[1]), "m": int(match[2])}
    if pattern not in ("row", "matrix", "blocks"):
        raise UsageError(f"--pattern is {pattern!r}; it takes row, matrix, blocks or N:M such as 2:4.")
    if sparsity is None:
        if pattern != "row":
            raise UsageError(f"--pattern {pattern} needs --sparsity, such as 50%.")
        return {}
    match = re.fullmatch(r"(\d{1,2}(?:\.\d+)?)%", sparsity)
    if match is None:
        raise UsageError(f"--sparsity is {sparsity!r}; it takes a share below 100%, such as 50%.")
    share = float(match[1]) / 100
    blocks = {"name": "blocks", "sparsity": share}
    return blocks if pattern == "blocks" else {"name": "unstructured", "sparsity": share, "scope": pattern}
