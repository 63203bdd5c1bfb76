"""`mediant export`: a model in the form that another program loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mediant.cli._console import RichProgress, WaitOption

USUAL = {"huggingface": "float32", "gguf": "f16"}
Format = Literal["huggingface", "gguf"]


def command(
    model: Annotated[str, typer.Argument(help="A compressed model, or any model that 'compress' takes.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="PATH", help="What to write: a folder for huggingface, a file for gguf."),
    ],
    format: Annotated[
        Format,
        typer.Option(
            metavar="FORMAT",
            help="huggingface: an ordinary dense folder for transformers, vLLM and converters. gguf: a file for "
            "llama.cpp (Llama, Mistral, SmolLM, Qwen 2 and 3).",
        ),
    ] = "huggingface",
    kind: Annotated[
        str | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="Of the weights: float32, float16 or bfloat16 for huggingface (float32 is exact); f32, f16, q8_0 or "
            "q4_0 for gguf (f16 by default).",
        ),
    ] = None,
    wait: WaitOption = True,
) -> None:
    """Write a model so that other programs load it without Mediant.

    Example: mediant export smol-pruned --format gguf --type q8_0 --out smol-pruned.gguf
    """
    from importlib import import_module

    from mediant.claims import claimed

    progress = RichProgress()
    exporter = import_module(f"mediant.exporters.{format}")
    with claimed(out, progress, wait):
        exporter.export(model, out, kind or USUAL[format], progress)
    progress.say(f"Wrote {out}.")
