"""What `generate` and `chat` share: options, the writer for a model, and the text as it comes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mediant.cli._model_options import MOST_SEED
from mediant.errors import ModelError, UsageError
from mediant.runtime.activation_bits import USUAL

if TYPE_CHECKING:
    from mediant.models.chat_template import Message
    from mediant.models.tokenizer import Tokenizer
    from mediant.progress import Progress
    from mediant.runtime.generation import GenerationRequest, Writer
    from mediant.runtime.precision import Policy

TemperatureOption = Annotated[
    float, typer.Option(min=0, help="0 takes the likeliest token each time; 1 draws as the model says.")
]
TopKOption = Annotated[
    int, typer.Option(min=0, max=2**31 - 1, help="Draw among so many of the likeliest tokens; 0: all.")
]
TopPOption = Annotated[
    float, typer.Option(min=0, max=1, help="Draw among the likeliest tokens of this total probability.")
]
MinPOption = Annotated[
    float, typer.Option(min=0, max=1, help="Draw among tokens at least this likely, relative to the likeliest.")
]
PenaltyOption = Annotated[
    float, typer.Option("--repetition-penalty", min=0.01, help="Above 1, tokens already there become less likely.")
]
StopOption = Annotated[
    list[str] | None, typer.Option("--stop", help="Text at which to stop; may be given again.", show_default=False)
]
SeedOption = Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the draws.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=1024, help="Threads of the native decoder.", show_default="all processors")
]
PrecisionOption = Annotated[
    float | None,
    typer.Option(
        min=1, max=8, help="Bits of a code to read on average, if the model is stored nested.", show_default="all"
    ),
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        "--precision-policy",
        metavar="POLICY",
        help="Choose the bits anew for every token: latency:30ms, energy:0.4J@15W, load, confidence or confidence:0.7.",
        show_default="no",
    ),
]
DraftOption = Annotated[
    float | None,
    typer.Option(
        min=1, max=8, help="Draft tokens at this precision, and check them at the full one.", show_default="no"
    ),
]
KvBitsOption = Annotated[int, typer.Option(help="Bits of each remembered key and value: 32, 16, 8 or 4.")]
ActivationsOption = Annotated[
    int,
    typer.Option(
        help="Bits to which the native decoder rounds what packed matrices multiply: 15, or 8, which is faster on "
        "several threads but cost 0.001 nats a token on SmolLM2, more than decoding may add."
    ),
]
RangesOption = Annotated[
    Path | None,
    typer.Option(
        "--activation-ranges",
        metavar="FILE",
        help="Ranges to round them in, as 'mediant ranges' found them.",
        show_default="each token's own",
    ),
]
TemplateOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Chat template, where the model has several.", show_default="its usual one"),
]
RuntimeOption = Annotated[
    str, typer.Option(help="What runs the model: 'native', 'transformers', or 'auto' for the first that can.")
]


def policy(text: str | None, precision: float | None, draft: float | None) -> Policy | None:
    """Returns the policy that the options ask for.

    Raises:
        UsageError: there is none of that name, or it comes with options that choose the precision themselves.
    """
    from mediant.runtime.precision import policy_of

    if text is None:
        return None
    if precision is not None or draft is not None:
        raise UsageError("--precision-policy chooses the precision itself; leave out --precision and --draft.")
    return policy_of(text)


@dataclass
class Loaded:
    """A model ready to write: what writes, its tokenizer, what to tell about the runtime, and where it lies."""

    writer: Writer
    tokenizer: Tokenizer
    runtime: str
    reason: str
    folder: Path


def load(
    model: str,
    runtime: str,
    progress: Progress,
    threads: int | None = None,
    kv_bits: int = 16,
    activation_bits: int = USUAL,
    ranges: Path | None = None,
) -> Loaded:
    """Opens a compressed or plain model for writing.

    Raises:
        ModelError: it is no model that writes, or not one for the runtime that was asked for.
        UsageError: there is no such runtime, or ranges are no use to it.
    """
    from mediant.cli._opening import opened
    from mediant.models.tokenizer import open_tokenizer
    from mediant.runtime.choosing import choose
    from mediant.runtime.generate import NativeWriter, TransformersWriter

    if runtime not in ("auto", "native", "transformers"):
        raise UsageError(f"There is no runtime {runtime!r}; it is 'auto', 'native' or 'transformers'.")
    source = opened(model, progress)
    if not source.causal:
        raise ModelError(f"{model} is an encoder; it cannot write text.")
    choice = choose(source.folder)
    if runtime == "native" and not choice.native:
        raise ModelError(f"The native decoder cannot run {model}: {choice.reason}.")
    tokenizer = open_tokenizer(source.folder)
    if choice.native and runtime != "transformers":
        from mediant.runtime.decoder import Decoder

        given = source.checkpoint or source.folder
        decoder = Decoder.open(given, threads, kv_bits, activation_bits=activation_bits, progress=progress)
        if ranges is not None:
            from mediant.runtime import static_ranges

            decoder.set_ranges(static_ranges.read(ranges))
        return Loaded(NativeWriter(decoder), tokenizer, "native", choice.reason, source.folder)
    if ranges is not None:
        raise UsageError("--activation-ranges is for the native decoder, and transformers runs this model.")
    reason = choice.reason if not choice.native else "it was asked for"
    network = source.load().eval()
    return Loaded(TransformersWriter(network), tokenizer, "transformers", reason, source.folder)


def stop_tokens(loaded: Loaded) -> frozenset[int]:
    """Returns the tokens that end a text; errors as for `special_tokens`."""
    from mediant.models.special_tokens import special_tokens

    return special_tokens(loaded.folder, loaded.tokenizer).ends


def prompt_ids(loaded: Loaded, prompt: str | Sequence[Message], template: str | None = None) -> list[int]:
    """Returns token ids of a text, or of messages in the model's chat form.

    Raises:
        ModelError: the template refuses the messages, or the model lacks one of the tokens.
        UsageError: nothing is there to go on from, or no such template.
    """
    from mediant.models import tokenizer
    from mediant.models.special_tokens import check_ids

    if isinstance(prompt, str):
        ids = loaded.tokenizer.encode(prompt)
    else:
        ids = tokenizer.prompt(loaded.tokenizer, prompt, template)
    if not ids:
        raise UsageError("The prompt is empty; give at least one word.")
    check_ids(ids, loaded.folder, loaded.tokenizer, "the prompt")
    return ids


@dataclass
class Written:
    """What a model has written so far."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)


def show(
    loaded: Loaded, tokens: Sequence[int], request: GenerationRequest, stops: Iterable[str], written: Written
) -> None:
    """Prints the text behind the tokens as it comes, to standard output, and notes it in `written`.

    The line is ended also at Ctrl-C, which goes on to the caller.
    """
    from mediant.runtime.generate import text_pieces

    def noted() -> Iterable[int]:
        for token in loaded.writer.write(tokens, request):
            written.tokens.append(token)
            yield token

    try:
        for piece in text_pieces(loaded.tokenizer, noted(), tuple(stops)):
            written.text += piece
            sys.stdout.write(piece)
            sys.stdout.flush()
    finally:
        if written.tokens:
            sys.stdout.write("\n")
            sys.stdout.flush()
