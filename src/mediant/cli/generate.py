"""`mediant generate`: let a model write."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mediant.cli._console import JsonOption, RichProgress, write_json
from mediant.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch


def command(
    model: Annotated[
        str, typer.Argument(help="A compressed model, or any model that 'compress' takes.", show_default=False)
    ],
    prompt: Annotated[str, typer.Argument(help="What to go on from.", show_default=False)],
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write at most.")] = 64,
    temperature: Annotated[
        float, typer.Option(min=0, help="0 takes the likeliest token each time; 1 draws as the model says.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(min=0, max=1, help="Draw among the likeliest tokens of this total probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Put the prompt as a chat message.", show_default="if the model chats"),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Let a model go on from a prompt, showing the text as it comes.

    Example: mediant generate smol-60 "The sea is" --max-tokens 40
    """
    import torch

    from mediant.cli._opening import opened
    from mediant.models.reference import load_tokenizer

    source = opened(model, RichProgress())
    if not source.causal:
        raise ModelError(f"{model} is an encoder; it cannot write text.")
    tokenizer = load_tokenizer(source.folder)
    ids = _prompt_ids(tokenizer, prompt, chat)
    network = source.load()
    room = _room(network, ids.shape[1])
    torch.manual_seed(seed)
    began = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr) if json == "-" else contextlib.nullcontext():
        written = _write(network, tokenizer, ids, min(max_tokens, room), temperature, top_p)
    figures = {
        "model": model,
        "prompt": prompt,
        "text": tokenizer.decode(written, skip_special_tokens=True),
        "tokens": len(written),
        "prompt_tokens": ids.shape[1],
        "seconds": time.perf_counter() - began,
        "seed": seed,
    }
    write_json(json, figures)


def _prompt_ids(tokenizer: Any, prompt: str, chat: bool | None) -> torch.Tensor:
    """Token ids [1, length] of the prompt, in the model's chat form if wanted."""
    if chat and not tokenizer.chat_template:
        raise UsageError("The model has no chat template; leave out --chat.")
    if tokenizer.chat_template and chat is not False:
        message = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    else:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
    if ids.shape[1] == 0:
        raise UsageError("The prompt is empty; give at least one word.")
    found: torch.Tensor = ids.long()
    return found


def _room(network: Any, used: int) -> int:
    """Tokens that still fit behind the prompt."""
    limit = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and used >= limit:
        raise UsageError(f"The prompt has {used} tokens; the model takes fewer than {limit}.")
    return sys.maxsize if limit is None else limit - used


def _write(network: Any, tokenizer: Any, ids: torch.Tensor, tokens: int, temperature: float, top_p: float) -> list[int]:
    """Prints the text as it is written and returns its tokens; stops quietly at Ctrl-C."""
    import torch
    from transformers import TextStreamer

    draw: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature > 0:
        draw = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    try:
        out = network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            pad_token_id=_padding(tokenizer),
            streamer=streamer,
            **draw,
        )
    except KeyboardInterrupt:
        streamer.end()
        raise typer.Exit(130) from None
    new: list[int] = out[0, ids.shape[1] :].tolist()
    return new


def _padding(tokenizer: Any) -> int:
    """A token to pad with; one prompt needs none, but transformers asks."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0
