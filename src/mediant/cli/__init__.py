"""The command line. A command is one file here with a function `command`; its docstring is the help. `COMMAND_CLASS`
replaces Typer's class where a command parses its arguments in its own way.

Command files import torch and transformers only inside their function, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import typer

from mediant.cli import _console
from mediant.cli._adapters import with_merging


def application() -> typer.Typer:
    """Builds the command line from the files that are here."""
    built = typer.Typer(
        name="mediant",
        help="Compress a language model to the size you name, know what it cost, run it on a CPU.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            file = importlib.import_module(f"{__name__}.{module.name}")
            built.command(module.name, cls=getattr(file, "COMMAND_CLASS", None))(with_merging(file.command))
    built.callback(invoke_without_command=True)(_version)
    return built


def _version(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("mediant"))
        raise typer.Exit


app = application()


def main() -> None:
    """Runs the command line: one sentence and a non-zero exit code for what a user can mend."""
    sys.exit(_console.run(app))
