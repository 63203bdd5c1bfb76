"""mediant distill."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from mediant.cli._console import JsonOption, RichProgress, WaitOption, table_console, write_json
from mediant.cli._model_options import MOST_SEED


def command(
    student: Annotated[
        str, typer.Argument(help="What learns: a Hugging Face folder, such as a pruned model, or a compressed model.")
    ],
    teacher: Annotated[str, typer.Option(metavar="MODEL", help="The model that it was made from.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write: an ordinary model.")],
    minutes: Annotated[
        float | None, typer.Option(metavar="N", help="Learn for about so long. Default: 15 minutes.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Instead of minutes: so many steps, the same on any machine.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text to learn on. Without it the teacher writes its own.")
    ] = None,
    alpha: Annotated[
        float, typer.Option(metavar="A", help="Weight of the text's own next tokens; 1 - A is that of the teacher's.")
    ] = 0.0,
    temperature: Annotated[
        float, typer.Option(metavar="T", help="Above 1, the teacher's unlikely tokens count more.")
    ] = 1.0,
    hidden: Annotated[
        float, typer.Option(metavar="W", help="Weight of the difference between hidden states after each layer.")
    ] = 0.0,
    rate: Annotated[
        float, typer.Option(metavar="R", help="Most that a weight changes in a step, relative to its matrix.")
    ] = 5e-4,
    lora: Annotated[
        int,
        typer.Option(
            metavar="RANK", help="Let thin products beside the matrices learn, and add them in the end; needs peft."
        ),
    ] = 0,
    batch: Annotated[int, typer.Option(metavar="N", help="Windows of 256 tokens a step.")] = 2,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of everything random.")] = 0,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Take up what a stopped run left.")] = True,
    wait: WaitOption = True,
    json: JsonOption = None,
) -> None:
    """Teach a pruned or otherwise spoilt model by the one it was made from.

    Example: mediant distill smol-pruned --teacher demo --minutes 15 --out smol-taught

    All weights learn. The loss is A x cross entropy + (1 - A) x T^2 x KL(teacher || student). Some windows of the text
    are not learned from and judge the result. A run that is stopped or killed goes on when the command is given again.
    """
    from mediant.methods.training.distillation import Distillation
    from mediant.pipeline.distill import DistillRequest, distill

    minutes = 15.0 if minutes is None and steps is None else minutes
    method = Distillation(alpha, temperature, hidden, rate, lora)
    progress = RichProgress()
    request = DistillRequest(student, teacher, out, minutes, steps, text, method, batch, seed, resume, wait)
    try:
        found = distill(request, progress)
    except KeyboardInterrupt:
        progress.say("What is finished is kept; the same command goes on from there.")
        raise
    write_json(json, {"out": str(out), **dataclasses.asdict(found), "kept": found.kept})
    table_console(json).print(
        f"[bold]{escape(str(out))}[/bold]: KL {found.kl_before:.4f} -> {min(found.kl_after, found.kl_before):.4f} nats "
        f"per token on text not learned from, after {found.steps} steps.",
        soft_wrap=True,
    )
