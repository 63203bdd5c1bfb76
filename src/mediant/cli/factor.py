"""mediant factor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mediant.cli._console import JsonOption, WaitOption, writable
from mediant.cli._model_options import MOST_SEED

Method = Literal["whitened", "truncated", "nmf", "residual", "quantized"]
RECIPES = {
    "whitened": "svd-llm",
    "truncated": "svd",
    "nmf": "nmf",
    "residual": "lqer",
    "quantized": "factor-quantize",
}


def command(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder, a hub id, a .gguf file, or 'demo'.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="Folder to write. An older checkpoint there is replaced."),
    ],
    size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Most bytes of the whole folder, as for 'mediant compress': 200MB, 12bpw."),
    ] = None,
    rank_budget: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Instead of a size: this share, such as 80%, of all weights in float16."),
    ] = None,
    method: Annotated[
        Method,
        typer.Option(
            metavar="METHOD",
            help="whitened: closest outputs on the calibration text. truncated: closest weights. nmf: non-negative "
            "factors. residual: beside quantized matrices. quantized: factors in few bits.",
        ),
    ] = "whitened",
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text to measure on. Without it the model writes its own, which takes time."),
    ] = None,
    tune: Annotated[
        float, typer.Option(metavar="MINUTES", help="Then learn rows, norms and biases from the original for so long.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of everything random.")] = 0,
    save_plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the plan.", callback=writable)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop at the plan, and leave nothing at DIR.")] = False,
    wait: WaitOption = True,
    json: JsonOption = None,
) -> None:
    """Make a model smaller by writing its matrices as products of thinner ones.

    Example: mediant factor demo --rank-budget 80% --out smol-thin

    Every matrix gets the rank that costs least in total within the size; one that would lose too much stays whole.
    Small as a way to save bytes next to 'mediant compress', but no weight is rounded, and thinner matrices need fewer
    operations.
    """
    from mediant.cli import compress
    from mediant.errors import UsageError

    if (size is None) == (rank_budget is None):
        raise UsageError("Give exactly one of --size and --rank-budget.")
    compress.command(
        model=model, out=out, size=size or _bytes(model, str(rank_budget)), recipe=RECIPES[method],
        calibration=calibration, tune=tune, seed=seed, save_plan=save_plan, dry_run=dry_run, wait=wait, json=json,
    )  # fmt: skip


def _bytes(model: str, budget: str) -> str:
    """Returns a share of the bytes of all weights in float16, as a size.

    Raises:
        UsageError: it is no share.
    """
    from fractions import Fraction

    from mediant.errors import UsageError
    from mediant.models.opening import open_model

    number = budget.removesuffix("%")
    try:
        share = Fraction(number) / (100 if budget.endswith("%") else 1)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share <= 1:
        raise UsageError(f"--rank-budget is {budget!r}; it takes a share from 0 to 1, such as 80% or 0.8.")
    return str(int(share * 2 * open_model(model).weights))
