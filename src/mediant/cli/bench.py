"""`mediant bench`: how fast a model runs here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from mediant.cli._console import JsonOption, RichProgress, stderr, table_console, write_json
from mediant.cli._writing import ActivationsOption
from mediant.errors import ModelError, UsageError
from mediant.runtime.activation_bits import USUAL

if TYPE_CHECKING:
    from mediant.runtime.speed import Speeds


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
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the median counts.")] = 5,
    precision: Annotated[
        bool, typer.Option("--precision", help="Also speed and KL divergence at each precision of a nested model.")
    ] = False,
    activations: ActivationsOption = USUAL,
    json: JsonOption = None,
) -> None:
    """Measure decoding and prompt reading, memory, and the share of the memory's bandwidth that is reached.

    Example: mediant bench smol-60 --against smol-q4_0.gguf --threads 1,2

    The models take turns in one process, so that a disturbance of the machine hits both. Memory and loading are
    measured in a process of their own.
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
    ours = speed.NativeRunner(source.folder, activation_bits=activations, progress=progress)
    limit = ours.decoder.description.positions - 1
    if prompt_tokens > limit or tokens > limit - speed.SHORT:
        raise UsageError(f"The model takes at most {limit} tokens; choose fewer with --prompt-tokens and --tokens.")
    runners: list[Any] = [ours]
    if against is not None:
        from mediant.runtime.llama_cpp import LlamaCppRunner

        runners.append(LlamaCppRunner(against, max(prompt_tokens, tokens + speed.SHORT) + 16))
    steps = iter(progress.track(range(len(counts) * (rounds + 1) * len(runners)), "Measuring"))
    found = speed.measure(runners, counts, prompt_tokens, tokens, rounds, lambda: next(steps, None))
    for _ in steps:
        pass
    bandwidths = {count: speed.bandwidth(count) for count in counts}
    size = ours.decoder.bytes_per_token
    figures: dict[str, Any] = {
        "model": model,
        "bytes_per_token": size,
        "bits_per_weight": 8 * size / source.weights,
        "prompt_tokens": prompt_tokens,
        "tokens": tokens,
        "activation_bits": activations,
        **_speeds(found[0], "", counts),
        "bandwidth_bytes_per_second": {str(count): bandwidths[count] for count in counts},
        "bandwidth_fraction": {
            str(count): speed.middle(found[0].decode[count]) * size / bandwidths[count] for count in counts
        },
        **speed.alone("mediant.runtime.speed", str(source.folder), str(prompt_tokens), str(tokens), str(activations)),
    }
    if against is not None:
        theirs = speed.alone("mediant.runtime.llama_cpp", against, str(prompt_tokens), str(tokens))
        figures["against"] = {"model": against, **_speeds(found[1], "", counts), **theirs}
        for kind in ("decode", "prefill"):
            pairs = {count: (getattr(found[0], kind)[count], getattr(found[1], kind)[count]) for count in counts}
            figures[f"{kind}_ratio"] = {str(count): speed.ratio(*pair) for count, pair in pairs.items()}
    if precision:
        figures["precision"] = _curve(ours, counts[-1], tokens, rounds)
    write_json(json, figures)
    out = table_console(json)
    out.print(_table(figures, counts))
    if precision:
        out.print(_curve_table(figures["precision"], counts[-1]))
    if len(counts) == 1:
        stderr.print("One thread count; --threads 1,2 shows how they share the memory.", style="dim")


def _threads(text: str) -> list[int]:
    """Thread counts as they were given, or 1 and all processors."""
    from mediant import workers

    if not text:
        return sorted({1, workers.threads()})
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and 1 <= int(part) <= 1024 for part in parts):
        raise UsageError(f"--threads {text!r} is not a list of thread counts; write them with commas, such as 1,2.")
    return sorted({int(part) for part in parts})


def _speeds(speeds: Speeds, prefix: str, counts: list[int]) -> dict[str, dict[str, float]]:
    from mediant.runtime.speed import middle

    return {
        f"{prefix}decode_tokens_per_second": {str(count): middle(speeds.decode[count]) for count in counts},
        f"{prefix}prefill_tokens_per_second": {str(count): middle(speeds.prefill[count]) for count in counts},
    }


def _curve(ours: Any, threads: int, tokens: int, rounds: int) -> list[dict[str, float]]:
    """KL divergence of each precision from the full one, and its speed."""
    from mediant.runtime import speed
    from mediant.runtime.precision import divergence, own_text

    decoder = ours.decoder
    windows = own_text(decoder)
    rows = []
    for bits in decoder.precisions:
        kl = divergence(decoder, bits, windows)
        decoder.set_precision(bits)
        found = speed.measure([ours], [threads], 16, tokens, rounds)[0]
        rows.append({
            "precision": bits,
            "kl": kl,
            "decode_tokens_per_second": speed.middle(found.decode[threads]),
            "bytes_per_token": decoder.bytes_per_token,
        })  # fmt: skip
    decoder.set_precision(None)
    return rows


def _table(figures: dict[str, Any], counts: list[int]) -> Table:
    other = figures.get("against")
    table = Table(box=None, header_style="dim")
    for name in ("threads", "decode tok/s", "prefill tok/s", "GB/s here", "of it reached"):
        table.add_column(name, justify="right")
    if other is not None:
        for name in ("llama.cpp decode", "ratio", "llama.cpp prefill", "ratio"):
            table.add_column(name, justify="right")
    for count in map(str, counts):
        row = [
            count,
            f"{figures['decode_tokens_per_second'][count]:.1f}",
            f"{figures['prefill_tokens_per_second'][count]:.0f}",
            f"{figures['bandwidth_bytes_per_second'][count] / 1e9:.1f}",
            f"{100 * figures['bandwidth_fraction'][count]:.0f} %",
        ]
        if other is not None:
            for kind in ("decode", "prefill"):
                row += [f"{other[f'{kind}_tokens_per_second'][count]:.1f}", f"{figures[f'{kind}_ratio'][count]:.2f}"]
        table.add_row(*row)
    table.caption = _caption(figures)
    table.caption_justify = "left"
    return table


def _caption(figures: dict[str, Any]) -> str:
    from mediant.planning.size import human

    lines = [
        f"{human(figures['bytes_per_token'])} a token, {figures['bits_per_weight']:.2f} bits per weight;"
        f" activations of {figures['activation_bits']} bits;"
        f" peak memory {human(int(figures['peak_memory_bytes']))}; loaded in {figures['load_seconds']:.2f} s"
    ]
    if "against" in figures:
        other = figures["against"]
        lines.append(
            f"llama.cpp: peak memory {human(int(other['peak_memory_bytes']))}; loaded in {other['load_seconds']:.2f} s"
        )
    return "\n".join(lines)


def _curve_table(rows: list[dict[str, float]], threads: int) -> Table:
    table = Table(box=None, header_style="dim", caption=f"{threads} threads; KL to all bits, text by the model itself")
    for name in ("bits", "KL, nats a token", "decode tok/s", "bytes a token"):
        table.add_column(name, justify="right")
    for row in rows:
        speed = f"{row['decode_tokens_per_second']:.1f}"
        table.add_row(f"{row['precision']:g}", f"{row['kl']:.4f}", speed, str(row["bytes_per_token"]))
    return table
