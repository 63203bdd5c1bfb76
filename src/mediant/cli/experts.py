"""`mediant experts`: a dense model as a mixture of experts."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from mediant.cli._console import JsonOption, RichProgress, WaitOption, stderr, table_console, write_json
from mediant.cli._model_options import MOST_SEED
from mediant.errors import UsageError


def command(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder, a hub id, a .gguf file, or 'demo'.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder to write.")],
    experts: Annotated[int, typer.Option(min=2, help="Equal parts that every MLP is cut into.")] = 8,
    active: Annotated[
        str, typer.Option(metavar="SHARE", help="How much of an MLP each token uses, such as 50%.")
    ] = "50%",
    shared: Annotated[
        int | None,
        typer.Option(help="How many of the parts in use every token uses; half of them if you do not say."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text to sort neurons and learn by. Without it the model writes its own."),
    ] = None,
    tune: Annotated[
        float,
        typer.Option(metavar="MINUTES", help="Then learn from the original for so long. Without it much is lost."),
    ] = 0.0,
    learn: Annotated[
        str,
        typer.Option(metavar="WHAT", help="What is learned: routers (and norms), or all, the experts' weights too."),
    ] = "all",
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of everything random.")] = 0,
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Take up what a stopped run left beside DIR, or start anew."),
    ] = True,
    wait: WaitOption = True,
    json: JsonOption = None,
) -> None:
    """Turn a dense model into a mixture of experts, of which each token uses a part.

    Example: mediant experts demo --experts 8 --active 50% --tune 10 --out smol-experts

    The result is an ordinary qwen2_moe model that transformers, and whatever else knows that architecture, loads
    without Mediant. It has as many weights as before; `mediant compress` makes it small.
    """
    from mediant.pipeline.experts import ExpertsRequest, convert

    wanted = ExpertsRequest(model, out, experts, _share(active), shared, calibration, tune, learn, seed, resume, wait)
    progress = RichProgress()
    try:
        figures = convert(wanted, progress)
    except KeyboardInterrupt:
        progress.say("What is finished is kept; the same command goes on from there.")
        raise
    write_json(json, figures)
    _report(figures, model, table_console(json))


def _share(text: str) -> float:
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise UsageError(f"--active is {text!r}; it takes a share such as 50% or 0.5.") from None


def _report(figures: dict[str, Any], model: str, console: Any) -> None:
    used = figures["shared"] + figures["active"] * figures["neurons"]
    whole = figures["shared"] + figures["experts"] * figures["neurons"]
    console.print(
        f"[bold]{escape(figures['out'])}[/bold]: each token uses {used} of {whole} neurons of a layer: "
        f"{figures['shared']} shared ones and {figures['active']} of {figures['experts']} experts of "
        f"{figures['neurons']}.",
        soft_wrap=True,
    )
    tuned = f", {figures['kl_tuned']:.4f} after {figures['tune_steps']} steps" if figures["tune_steps"] else ""
    console.print(f"KL to the original on text not learned from: {figures['kl_fitted']:.4f} nats per token{tuned}.")
    next_command = f"mediant evaluate {shlex.quote(figures['out'])} --reference {shlex.quote(model)}"
    stderr.print(f"What it cost: {escape(next_command)}", style="dim", soft_wrap=True)
