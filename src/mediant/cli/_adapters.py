"""The option `--merge-adapter`, the same for every command that opens a model."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args

import typer

MODELS = ("model", "candidate", "reference", "student", "teacher")
"""Parameters of commands that name a model, where they are text; a path is that of a compressed one."""

Option = Annotated[
    bool,
    typer.Option(
        "--merge-adapter",
        help="Where a LoRA or another adapter lies beside a model's weights, or alone, take the model with it merged "
        "(needs the package peft).",
    ),
]


def with_merging(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the option, if it opens a model; else the command itself."""
    signature = inspect.signature(command, eval_str=True)
    if not any(get_args(p.annotation)[:1] == (str,) for n, p in signature.parameters.items() if n in MODELS):
        return command

    @functools.wraps(command)
    def run(*arguments: Any, merge_adapter: bool = False, **options: Any) -> Any:
        if not merge_adapter:
            return command(*arguments, **options)
        from mediant.models.adapters import merging

        with merging():
            return command(*arguments, **options)

    option = inspect.Parameter("merge_adapter", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Option)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    run.__annotations__ = {name: p.annotation for name, p in signature.parameters.items()} | {"merge_adapter": Option}
    return run
