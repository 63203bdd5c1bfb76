"""`mediant bench`: how fast a model runs here."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mediant.cli._bench_tables import curve_table, speeds_table
from mediant.cli._benching import Session
from mediant.cli._console import JsonOption, RichProgress, stderr, table_console, write_json
from mediant.cli._writing import ActivationsOption
from mediant.errors import ModelError, UsageError
from mediant.runtime.activation_bits import USUAL


def command(
    model: Annotated[
        str, typer.Argument(help="A compressed model, or any model that 'compress' takes.", show_default=False)
    ],
    against: Annotated[
        str | None,
        typer.Option(metavar="GGUF", help="A model for llama.cpp, measured in turn with ours.", show_default=False),
    ] = None,
    threads: Annotated[str, typer.Option(help="Thread counts, with commas.", show_default="1 and all processors")] = "",
    prompt_tokens: Annotated[int, typer.Option(min=16, help="Length of the prompt that is read.")] = 512,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens that are written.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Rounds; the median counts.")] = 5,
    precision: Annotated[
        bool, typer.Option("--precision", help="Also speed and KL divergence at each precision of a nested model.")
    ] = False,
    activations: ActivationsOption = USUAL,
    json: JsonOption = None,
) -> None:
    """Measure decoding and prompt reading, memory, and the share of the memory's bandwidth that is reached.

    Example: mediant bench smol-60 --against smol-q4_0.gguf --threads 1,2

    The models take turns in one process, so that a disturbance of the machine hits both. Memory and loading are
    measured in a process of their own. What was measured is kept when the command is stopped.
    """
    from mediant.cli._opening import opened
    from mediant.runtime import speed
    from mediant.runtime.choosing import choose

    progress = RichProgress()
    counts = _threads(threads)
    source = opened(model, progress)
    choice = choose(source.folder)
    if not choice.native:
        raise ModelError(f"{model} is not run by the native decoder, whose speed this measures: {choice.reason}.")
    progress.say(f"Loading {model}.")
    ours = speed.NativeRunner(source.folder, activation_bits=activations, progress=progress)
    limit = ours.decoder.description.positions - 1
    if prompt_tokens > limit or tokens > limit - speed.SHORT:
        raise UsageError(f"The model takes at most {limit} tokens; choose fewer with --prompt-tokens and --tokens.")
    runners: list[Any] = [ours]
    if against is not None:
        from mediant.runtime.llama_cpp import LlamaCppRunner

        runners.append(LlamaCppRunner(against, max(prompt_tokens, tokens + speed.SHORT) + 16))
    size = ours.decoder.bytes_per_token
    figures: dict[str, Any] = {
        "model": model,
        "bytes_per_token": size,
        "bits_per_weight": 8 * size / source.weights,
        "prompt_tokens": prompt_tokens,
        "tokens": tokens,
        "activation_bits": activations,
        "partial": True,
    }
    session = Session(runners, counts, prompt_tokens, tokens, rounds, progress, figures)
    try:
        session.rates()
        session.bandwidths(size)
        session.memory(str(source.folder), against)
        if precision:
            session.precisions(ours)
        figures["partial"] = False
    finally:
        # Also at Ctrl-C: what was measured took minutes.
        if figures.get("decode_tokens_per_second"):
            _show(figures, counts, json)
    if len(counts) == 1:
        stderr.print("One thread count; --threads 1,2 shows how they share the memory.", style="dim")


def _show(figures: dict[str, Any], counts: list[int], json: str | None) -> None:
    write_json(json, figures)
    out = table_console(json)
    measured = [count for count in counts if str(count) in figures["decode_tokens_per_second"]]
    out.print(speeds_table(figures, measured))
    if figures.get("precision"):
        out.print(curve_table(figures["precision"], counts[-1]))
    if figures["partial"]:
        stderr.print("This is what was measured before the end; the rest is missing.", style="dim")


def _threads(text: str) -> list[int]:
    """Thread counts as they were given, or 1 and all processors."""
    from mediant import workers

    if not text:
        return sorted({1, workers.threads()})
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and 1 <= int(part) <= 1024 for part in parts):
        raise UsageError(f"--threads {text!r} is not a list of thread counts; write them with commas, such as 1,2.")
    return sorted({int(part) for part in parts})
