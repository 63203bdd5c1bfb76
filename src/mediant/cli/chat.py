"""`mediant chat`: talk with a model."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mediant import files
from mediant.cli import _writing as options
from mediant.cli._console import RichProgress, stderr
from mediant.errors import MediantError, UsageError
from mediant.models.tokenizer import choose_template
from mediant.runtime.activation_bits import USUAL

HELP = "/help: this list. /clear: forget the conversation. /save FILE: write it as JSON. /exit: leave; so does Ctrl-D."
PLAIN_STOP = "\nUser:"


def command(
    model: Annotated[
        str, typer.Argument(help="A compressed model, or any model that 'compress' takes.", show_default=False)
    ],
    system: Annotated[str | None, typer.Option(help="What the model is told first.", show_default=False)] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 512,
    temperature: options.TemperatureOption = 0.7,
    top_k: options.TopKOption = 0,
    top_p: options.TopPOption = 0.95,
    min_p: options.MinPOption = 0.0,
    repetition_penalty: options.PenaltyOption = 1.1,
    stop: options.StopOption = None,
    seed: options.SeedOption = 0,
    template: options.TemplateOption = None,
    precision: options.PrecisionOption = None,
    precision_policy: options.PolicyOption = None,
    draft: options.DraftOption = None,
    threads: options.ThreadsOption = None,
    kv_bits: options.KvBitsOption = 16,
    activations: options.ActivationsOption = USUAL,
    activation_ranges: options.RangesOption = None,
    runtime: options.RuntimeOption = "auto",
) -> None:
    """Talk with a model. Ctrl-C stops an answer; /help lists what else there is.

    Example: mediant chat smol-60 --system "You are brief."

    Lines can also come from a pipe: each is a message, and only answers go to standard output.
    """
    from mediant.runtime.generation import GenerationRequest
    from mediant.runtime.sampling import Sampling

    policy = options.policy(precision_policy, precision, draft)
    loaded = options.load(model, runtime, RichProgress(), threads, kv_bits, activations, activation_ranges)
    request = GenerationRequest(
        max_tokens=max_tokens,
        sampling=Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed),
        stop_tokens=options.stop_tokens(loaded),
        precision=precision,
        policy=policy,
        draft=draft,
    )
    if sys.stdin.isatty():
        stderr.print(f"{model}, run by {loaded.runtime}. {HELP}", style="dim", soft_wrap=True, markup=False)
    Conversation(loaded, system, template).run(request, tuple(stop or ()))


class Conversation:
    """Messages so far, and the loop that adds to them."""

    def __init__(self, loaded: options.Loaded, system: str | None, template: str | None = None):
        """Begins with what the model is told first; a template that is not there is refused at once."""
        self._loaded, self._system, self._template = loaded, system, template
        self._plain = not loaded.tokenizer.settings.templates and template is None
        if not self._plain:
            choose_template(loaded.tokenizer.settings, template)
        self.clear()

    def clear(self) -> None:
        """Forgets all but what the model was told first."""
        self.messages: list[dict[str, str]] = []
        if self._system:
            self.messages.append({"role": "system", "content": self._system})

    def run(self, request: Any, stops: tuple[str, ...]) -> None:
        """Reads messages and answers them until the input ends."""
        while (line := _read()) is not None:
            if line.startswith("/"):
                if not self._obey(line):
                    return
            elif line.strip():
                self._answer(line, request, stops)

    def _answer(self, line: str, request: Any, stops: tuple[str, ...]) -> None:
        """Writes an answer; one that Ctrl-C stopped stays in the conversation as far as it came. A mistake leaves it as
        it was.
        """
        before = len(self.messages)
        self.messages.append({"role": "user", "content": line})
        if self._plain:
            stops += (PLAIN_STOP,)
        written = options.Written()
        try:
            options.show(self._loaded, self._tokens(), request, stops, written)
        except KeyboardInterrupt:
            stderr.print("(stopped)", style="dim")
        except MediantError as problem:
            stderr.print(str(problem), soft_wrap=True, markup=False)
            del self.messages[before:]
            return
        self.messages.append({"role": "assistant", "content": written.text.strip()})

    def _tokens(self) -> list[int]:
        """Returns the conversation in the model's own form, or a plain one where it has none."""
        if not self._plain:
            return options.prompt_ids(self._loaded, self.messages, self._template)
        names = {"system": "", "user": "User: ", "assistant": "Assistant: "}
        lines = [names[message["role"]] + message["content"] for message in self.messages]
        return options.prompt_ids(self._loaded, "\n".join([*lines, "Assistant:"]))

    def _obey(self, line: str) -> bool:
        """Carries out a command; False ends the conversation."""
        name, _, argument = line.strip().partition(" ")
        if name in ("/exit", "/quit"):
            return False
        if name == "/clear":
            self.clear()
        elif name == "/save":
            self._save(argument.strip())
        elif name == "/help":
            stderr.print(HELP, soft_wrap=True, markup=False)
        else:
            stderr.print(f"There is no command {name}. {HELP}", soft_wrap=True, markup=False)
        return True

    def _save(self, name: str) -> None:
        try:
            if not name:
                raise UsageError("Say where to: /save conversation.json")
            text = json_module.dumps(self.messages, indent=1, ensure_ascii=False) + "\n"
            files.write(Path(name), text.encode())
        except MediantError as problem:
            stderr.print(str(problem), soft_wrap=True, markup=False)


def _read() -> str | None:
    """Returns one message; None at the end. Ctrl-C at the prompt empties the line."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None
    while True:
        try:
            return input("> ")
        except EOFError:
            return None
        except KeyboardInterrupt:
            stderr.print()
