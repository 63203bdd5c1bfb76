"""The page docs/models.md: what can be done with each class of transformers that reads text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import transformers
from tests.every_class.trial import WORKS, Outcome

PAGE = Path(__file__).parents[2] / "docs/models.md"
HEAD = """# Models

What Mediant does with each class in the lists of transformers {version} for causal language models, masked language
models and text encoders. Written by `python -m tests.every_class`, which makes a tiny random model of each class and
gives it to `compress`, `evaluate`, `generate` and `export`; `make test-all` checks that this page is still right. A
tiny model shows that a class is handled, not how well a trained one survives.

{works} of {all} classes are compressed, evaluated and exported for transformers; {refused} are refused before any work,
with the sentence below. `generate` writes with all that are language models: by the native decoder, or by transformers
where the table does not say *native*.

## What works

| class | model type | taken as | runs on | GGUF |
|---|---|---|---|---|
"""
REFUSED = """
## What is refused

| class | model type | because |
|---|---|---|
"""


def page(outcomes: Iterable[Outcome]) -> str:
    """The whole page."""
    every = list(outcomes)
    works = [outcome for outcome in every if _works(outcome)]
    refused = [outcome for outcome in every if not _works(outcome)]
    head = HEAD.format(version=transformers.__version__, works=len(works), all=len(every), refused=len(refused))
    return head + "\n".join(map(row, works)) + "\n" + REFUSED + "\n".join(map(row, refused)) + "\n"


def row(outcome: Outcome) -> str:
    """The line of a class, in the table that it belongs to."""
    if not _works(outcome):
        return f"| {outcome.name} | {outcome.model_type} | {_reason(outcome)} |"
    runs = "native" if outcome.native == WORKS else "transformers"
    gguf = "yes" if outcome.commands["gguf"] == WORKS else "no"
    return f"| {outcome.name} | {outcome.model_type} | {outcome.kind} | {runs} | {gguf} |"


def _works(outcome: Outcome) -> bool:
    needed = ["compress", "evaluate", "huggingface", *(["generate"] if outcome.kind == "language model" else [])]
    return all(outcome.commands[command] == WORKS for command in needed)


def _reason(outcome: Outcome) -> str:
    """Why it is refused, without the parts of the sentence that are the same for all."""
    said = next(words for words in outcome.commands.values() if words != WORKS)
    found = re.search(r" is an? \w+, which (.*); Mediant takes", said)
    return (found[1] if found else said).replace("|", "\\|")
