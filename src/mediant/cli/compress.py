"""mediant compress."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mediant.cli._console import JsonOption, RichProgress, stderr, table_console, write_json


def command(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder, a hub id, a .gguf file, or 'demo'.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; an older checkpoint there is replaced.")],
    size: Annotated[
        str | None, typer.Option(help="Size of the whole output: 60MB, 57MiB, 3.5bpw, 25% or bytes.")
    ] = None,
    max_kl: Annotated[
        float | None,
        typer.Option(help="Instead of a size: the smallest file within this loss, in nats per token."),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="Instead of a size: a plan file, as a checkpoint's --save-plan.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a recipe file.")] = "default",
    calibration: Annotated[
        Path | None, typer.Option(help="Text to calibrate on; without it the model writes its own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Go on where a stopped run of the same command left off."),
    ] = True,
    save_plan: Annotated[
        Path | None, typer.Option(help="Also write the plan, to read, edit and give to --plan.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop at the plan; write no checkpoint.")] = False,
    json: JsonOption = None,
) -> None:
    """Compress a model to the size you name.

    Example: mediant compress demo --size 60MB --out smol-60

    Loads the model, measures on calibration text how much each part matters, gives every part the depth that costs
    least in total, rounds, and writes one folder whose bytes, everything counted, do not exceed the size.
    """
    from mediant import files
    from mediant.pipeline.compress import Request, begin, compress

    request = Request(model, out, size, max_kl, plan, recipe, calibration, seed, resume)
    if dry_run:
        run = begin(request, RichProgress())
        chosen, total, weights = run.plan(), None, run.model.weights
    else:
        checkpoint = compress(request, RichProgress())
        chosen, total, weights = checkpoint.plan, files.folder_bytes(out), checkpoint.model.weights
    if save_plan is not None:
        files.write(save_plan, chosen.to_json().encode())
    figures = {"target_bytes": chosen.target_bytes, "predicted_loss": chosen.predicted_loss, "recipe": chosen.recipe}
    if total is not None:
        bits = 8 * total / weights
        figures |= {"out": str(out), "bytes": total, "bits_per_weight": bits, "seed": chosen.seed}
        table_console(json).print(
            f"[bold]{out}[/bold]: {total / 1e6:.2f} MB ({total} bytes), {bits:.3f} bits per weight, everything counted."
        )
        stderr.print(f"What it cost: mediant evaluate {out} --reference {model}", style="dim")
    write_json(json, figures)
