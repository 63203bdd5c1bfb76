"""The options `--merge-adapter` and `--trust-remote-code`, the same for every command that opens a model."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args

import typer

MOST_SEED = 2**63 - 1
"""The largest seed that PyTorch's and NumPy's generators both take."""
MODELS = ("model", "candidate", "reference", "student", "teacher")
"""Parameters of commands that name a model, where they are text; a path is that of a compressed one."""

Merge = Annotated[
    bool,
    typer.Option(
        "--merge-adapter",
        help="Where a LoRA or another adapter lies beside a model's weights, or alone, take the model with it merged "
        "(needs the package peft).",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Where Python code comes with a model, run it. It may do anything that you may do: read it first.",
    ),
]
OPTIONS = {"merge_adapter": Merge, "trust_remote_code": Trust}


def with_model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the command with the options, if it opens a model; else the command itself."""
    signature = inspect.signature(command, eval_str=True)
    if not any(get_args(p.annotation)[:1] == (str,) for n, p in signature.parameters.items() if n in MODELS):
        return command

    @functools.wraps(command)
    def run(*arguments: Any, merge_adapter: bool = False, trust_remote_code: bool = False, **options: Any) -> Any:
        with contextlib.ExitStack() as wishes:
            if merge_adapter:
                from mediant.models.adapters import merging

                wishes.enter_context(merging())
            if trust_remote_code:
                from mediant.models.remote_code import trusting

                wishes.enter_context(trusting())
            return command(*arguments, **options)

    keyword = inspect.Parameter.KEYWORD_ONLY
    more = [inspect.Parameter(name, keyword, default=False, annotation=kind) for name, kind in OPTIONS.items()]
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *more])  # type: ignore[attr-defined]
    run.__annotations__ = {name: p.annotation for name, p in signature.parameters.items()} | OPTIONS
    return run
