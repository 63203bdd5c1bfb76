"""What the commands share: a console on standard error, progress, JSON output, exit codes."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from mediant import files
from mediant.errors import MediantError, UsageError
from mediant.progress import What

T = TypeVar("T")
STOPPED = 128 + signal.SIGINT

JsonOption = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Also write the figures as JSON; '-' for standard output."),
]

stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False)


class RichProgress:
    """Bars with the time left on standard error."""

    def track(self, items: Iterable[T], what: What, total: int | None = None) -> Iterator[T]:
        """Yields the items under a bar that goes when they are done; in a file or a pipe there is none."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        counts = (MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        columns = (TextColumn("{task.description}"), BarColumn(), *counts)
        with Bars(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bars:
            task = bars.add_task(_said(what), total=total)
            for item in items:
                yield item
                bars.update(task, advance=1, description=_said(what))

    def say(self, text: str) -> None:
        """Prints the line."""
        stderr.print(escape(text), soft_wrap=True)


def _said(what: What) -> str:
    return what if isinstance(what, str) else what()


def write_json(target: str | None, data: Any) -> None:
    """Writes `data` to a file, or to standard output for '-'; does nothing for None."""
    if target is None:
        return
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        files.write(Path(target), text.encode())


def table_console(json_target: str | None) -> Console:
    """Where tables go: standard output, unless the JSON has it."""
    return stderr if json_target == "-" else stdout


def _quiet_libraries() -> None:
    """Keeps the libraries' own bars and warnings out of our output; the user's own settings win."""
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
    }.items():
        os.environ.setdefault(name, value)


def run(app: typer.Typer) -> int:
    """Runs a Typer application and returns its exit code."""
    _quiet_libraries()
    signal.signal(signal.SIGTERM, _stop)
    try:
        result = app(standalone_mode=False)
    except MediantError as problem:
        stderr.print(f"[red]mediant:[/red] {escape(str(problem))}", soft_wrap=True)
        return problem.exit_code
    except KeyboardInterrupt:
        return stopped()
    except BrokenPipeError:
        return 0
    except Exception as problem:
        if hasattr(problem, "format_message"):  # a click exception: a usage error with its own text
            problem.show()  # type: ignore[attr-defined]
            return UsageError.exit_code
        if type(problem).__name__ == "Abort":
            return stopped()
        raise
    # Typer turns an interrupt into this code without a word.
    return stopped() if result == STOPPED else int(result or 0)


def _stop(*_: object) -> None:
    """Ends like Ctrl-C, also where that is ignored, as in what a script put into the background."""
    raise KeyboardInterrupt


def stopped() -> int:
    """Says that the user stopped the command, and returns the exit code for it."""
    stderr.print("mediant: stopped.")
    return STOPPED
