"""`mediant generate`: let a model write."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Annotated

import typer

from mediant.cli import _writing as options
from mediant.cli._console import JsonOption, RichProgress, write_json
from mediant.errors import UsageError
from mediant.runtime.activation_bits import USUAL


def command(
    model: Annotated[
        str, typer.Argument(help="A compressed model, or any model that 'compress' takes.", show_default=False)
    ],
    prompt: Annotated[str, typer.Argument(help="What to go on from.", show_default=False)],
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write at most.")] = 64,
    temperature: options.TemperatureOption = 0.0,
    top_k: options.TopKOption = 0,
    top_p: options.TopPOption = 1.0,
    min_p: options.MinPOption = 0.0,
    repetition_penalty: options.PenaltyOption = 1.0,
    stop: options.StopOption = None,
    seed: options.SeedOption = 0,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Put the prompt as a chat message.", show_default="if the model chats"),
    ] = None,
    template: options.TemplateOption = None,
    precision: options.PrecisionOption = None,
    precision_policy: options.PolicyOption = None,
    draft: options.DraftOption = None,
    threads: options.ThreadsOption = None,
    kv_bits: options.KvBitsOption = 16,
    activations: options.ActivationsOption = USUAL,
    activation_ranges: options.RangesOption = None,
    runtime: options.RuntimeOption = "auto",
    json: JsonOption = None,
) -> None:
    """Let a model go on from a prompt, showing the text as it comes.

    Example: mediant generate smol-60 "The sea is" --max-tokens 40
    """
    from mediant.runtime.generation import GenerationRequest
    from mediant.runtime.sampling import Sampling

    policy = options.policy(precision_policy, precision, draft)
    loaded = options.load(model, runtime, RichProgress(), threads, kv_bits, activations, activation_ranges)
    ids = _prompt_ids(loaded, prompt, chat, template)
    request = GenerationRequest(
        max_tokens=max_tokens,
        sampling=Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed),
        stop_tokens=options.stop_tokens(loaded),
        precision=precision,
        policy=policy,
        draft=draft,
    )
    began, written = time.perf_counter(), options.Written()
    with contextlib.redirect_stdout(sys.stderr) if json == "-" else contextlib.nullcontext():
        try:
            options.show(loaded, ids, request, stop or (), written)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
    figures = {
        "model": model,
        "prompt": prompt,
        "text": written.text,
        "tokens": len(written.tokens),
        "prompt_tokens": len(ids),
        "seconds": time.perf_counter() - began,
        "seed": seed,
        "runtime": loaded.runtime,
        "runtime_reason": loaded.reason,
        "activation_bits": activations if loaded.runtime == "native" else None,
        "activation_ranges": None if activation_ranges is None else str(activation_ranges),
    }
    write_json(json, figures)


def _prompt_ids(loaded: options.Loaded, prompt: str, chat: bool | None, template: str | None) -> list[int]:
    """Returns token ids of the prompt, in the model's chat form if wanted."""
    if chat is False and template is not None:
        raise UsageError("--template is for chat messages; leave out --no-chat.")
    if chat or template is not None or (chat is None and loaded.tokenizer.settings.templates):
        return options.prompt_ids(loaded, [{"role": "user", "content": prompt}], template)
    return options.prompt_ids(loaded, prompt)
