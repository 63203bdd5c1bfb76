"""mediant compress."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from mediant.cli._console import JsonOption, RichProgress, WaitOption, stderr, table_console, writable, write_json
from mediant.cli._model_options import MOST_SEED

Coding = Literal["fixed", "entropy"]

if TYPE_CHECKING:
    from rich.console import Console

    from mediant.planning.plan import Plan


def command(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder, a hub id, a .gguf file, or 'demo'.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="Folder to write. An older checkpoint there is replaced."),
    ],
    size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Most bytes of the whole folder: 60MB, 57MiB, 3.5bpw (bits per weight), 25% (of the weights as they "
            "are now) or a number of bytes.",
        ),
    ] = None,
    max_kl: Annotated[
        float | None,
        typer.Option(
            metavar="NATS",
            help="Instead of a size: find a small folder that loses at most this much (KL divergence in nats per "
            "token, such as 0.05). Takes several trials.",
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Instead of a size: do what this plan says; --save-plan writes one."),
    ] = None,
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help="Which methods to use: the name of a recipe, or a recipe file.")
    ] = "default",
    coding: Annotated[
        Coding,
        typer.Option(
            metavar="CODING",
            help="fixed: all weights of a row take as many bits. entropy: frequent values take fewer, which loses less "
            "at the same size; weights are decoded when the model is loaded. It is a recipe of its own.",
        ),
    ] = "fixed",
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text to measure on. Without it the model writes its own, which takes time."),
    ] = None,
    tune: Annotated[
        float,
        typer.Option(
            metavar="MINUTES",
            help="Then learn scales, norms and biases from the original for so long; the size does not change. Worth "
            "most below 3.5 bits per weight. A plan has its own number of steps.",
        ),
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of everything random; a plan has its own.")] = 0,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume",
            help="Take up what a stopped run left in the work folder beside DIR, or start anew.",
        ),
    ] = True,
    save_plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write the plan: a JSON text to read, edit and give to --plan.",
            callback=writable,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop at the plan, and leave nothing at DIR.")] = False,
    wait: WaitOption = True,
    json: JsonOption = None,
) -> None:
    """Compress a model to the size you name.

    Example: mediant compress demo --size 60MB --out smol-60

    It measures on text how much each part of the model matters, gives every part the number of bits that costs least
    in total, rounds, and writes one folder. All files in it together take at most the size you name, and hardly less.
    A run that is stopped or killed goes on where it was when you give the same command again.
    """
    from mediant.errors import UsageError
    from mediant.pipeline.compress import begun
    from mediant.pipeline.request import CompressRequest

    for file in (save_plan, json):
        if file not in (None, "-") and Path(file).resolve().is_relative_to(out.resolve()):
            raise UsageError(f"{file} would lie in {out}, whose bytes all count; name another place.")
    request = CompressRequest(model, out, size, max_kl, plan, recipe, coding, calibration, seed, resume, tune, wait)
    progress = RichProgress()
    try:
        with begun(request, progress) as run:
            chosen = run.plan()
            figures = _figures(chosen, run.folder_bytes(chosen), run.model.weights, out)
            figures |= {"calibration": run.calibrator.amounts() if run.calibrated else []}
            _save(save_plan, chosen)
            if not dry_run:
                run.pack(chosen)
    except KeyboardInterrupt:
        progress.say("What is finished is kept; the same command goes on from there.")
        raise
    write_json(json, figures)
    _report(figures, model, dry_run, table_console(json))


def _figures(chosen: Plan, size: int, weights: int, out: Path) -> dict[str, Any]:
    return {
        "out": str(out),
        "bytes": size,
        "bits_per_weight": 8 * size / weights,
        "target_bytes": chosen.target_bytes,
        "predicted_loss": chosen.predicted_loss,
        "recipe": chosen.recipe,
        "seed": chosen.seed,
        "tune_steps": chosen.tune_steps,
        "block_steps": chosen.block_steps,
        "code_steps": chosen.code_steps,
    }


def _save(file: Path | None, chosen: Plan) -> None:
    from mediant import files

    if file is not None:
        files.write(file, chosen.to_json().encode())


def _report(figures: dict[str, Any], model: str, dry_run: bool, console: Console) -> None:
    size = f"{figures['bytes'] / 1e6:.2f} MB ({figures['bytes']} bytes)"
    console.print(
        f"[bold]{escape(figures['out'])}[/bold]{' would have' if dry_run else ':'} {size}, "
        f"{figures['bits_per_weight']:.3f} bits per weight, everything counted.",
        soft_wrap=True,
    )
    if not dry_run:
        next_command = f"mediant evaluate {shlex.quote(figures['out'])} --reference {shlex.quote(model)}"
        stderr.print(f"What it cost: {escape(next_command)}", style="dim", soft_wrap=True)
