"""The command line. A command is one file here with a function `command`; its docstring is the help. `COMMAND_CLASS`
replaces Typer's class where a command parses its arguments in its own way.

Command files import torch and transformers only inside their function, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterable
from typing import Any

import typer

from mediant.cli import _console
from mediant.cli._model_options import with_model_options


def application(names: Iterable[str] | None = None) -> typer.Typer:
    """Returns the command line with the commands of these names, or of all files that are here."""
    app = typer.Typer(
        name="mediant",
        help="Compress a language model to the size you name, know what it cost, run it on a CPU.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_version)
    for name in commands() if names is None else names:
        file = importlib.import_module(f"{__name__}.{name}")
        app.command(name, cls=getattr(file, "COMMAND_CLASS", None))(with_model_options(file.command))
    return app


def commands() -> list[str]:
    """Returns the names of all commands."""
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def __getattr__(name: str) -> Any:
    if name == "app":
        return application()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("mediant"))
        raise typer.Exit


def main() -> None:
    """Runs the command line: one sentence and a non-zero exit code for what a user can mend."""
    known, asked = commands(), sys.argv[1:2]
    # Only the file of the command that runs is imported; its help, or that of all, needs no less.
    sys.exit(_console.run(application(asked if asked and asked[0] in known else known)))
