"""What the commands share: a console on standard error, progress, JSON output, exit codes."""

from __future__ import annotations

import contextlib
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

from mediant import files
from mediant.errors import MediantError, StorageError, UsageError
from mediant.progress import What

T = TypeVar("T")
STOPPED = 128 + signal.SIGINT


def writable(path: Any) -> Any:
    """Refuses a file that cannot be written, when options are read: before any work."""
    if path not in (None, "-"):
        files.check_writable(Path(path))
    return path


JsonOption = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="FILE", help="Also write the figures as JSON; '-' for standard output.", callback=writable
    ),
]
WaitOption = Annotated[
    bool,
    typer.Option("--wait/--no-wait", help="Where another run writes to the same place: wait for its end, or stop."),
]


class _Pipe(Console):
    """A console that says when standard output was closed; Rich would end with an exit code of its own."""

    def on_broken_pipe(self) -> None:
        """Raises the exception that is being handled, or goes on without a word if only messages are not read."""
        self.quiet = True
        if not self.stderr:
            raise


stderr = _Pipe(stderr=True, highlight=False)
stdout = _Pipe(highlight=False)


class RichProgress:
    """Bars with the time left on standard error."""

    def track(self, items: Iterable[T], what: What, total: int | None = None) -> Iterator[T]:
        """Yields the items under a bar that goes when they are done; in a file or a pipe there is none."""
        # Late, because commands that have no bar to show, like `generate`, start sooner without.
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

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
    if target == "-":
        sys.stdout.write(_json(data, sys.stdout.encoding or "ascii"))
    else:
        files.write(Path(target), _json(data, "utf-8").encode())


def _json(data: Any, encoding: str) -> str:
    """JSON as readable as an encoding allows: where it lacks a character, all but ASCII is escaped."""
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(data, indent=1, allow_nan=False) + "\n"
    return text


def table_console(json_target: str | None) -> Console:
    """Returns the console for tables: standard output, unless the JSON has it."""
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
    _forgiving_streams()
    signal.signal(signal.SIGTERM, _stop)
    try:
        code = _run(app)
        sys.stdout.flush()
        return code
    except (BrokenPipeError, SystemExit) as problem:
        # Typer makes an exit of a closed pipe.
        if isinstance(problem, SystemExit) and not isinstance(problem.__context__, BrokenPipeError):
            raise
        # Whoever read has seen enough. The interpreter must not try to write the rest.
        _drop_output()
        return 0
    except OSError as problem:
        _drop_output()
        place = problem.filename or "the output"
        stderr.print(f"[red]mediant:[/red] {escape(f'{place}: {problem.strerror or problem}')}.", soft_wrap=True)
        return StorageError.exit_code


def _run(app: typer.Typer) -> int:
    try:
        result = app(standalone_mode=False)
    except MediantError as problem:
        stderr.print(f"[red]mediant:[/red] {escape(str(problem))}", soft_wrap=True)
        return problem.exit_code
    except KeyboardInterrupt:
        return stopped()
    except MemoryError:
        stderr.print("[red]mediant:[/red] There is too little memory for this.", soft_wrap=True)
        return MediantError.exit_code
    except RecursionError:
        stderr.print("[red]mediant:[/red] A file that was read is nested too deeply.", soft_wrap=True)
        return MediantError.exit_code
    except Exception as problem:
        if hasattr(problem, "format_message"):  # a click exception: a usage error with its own text
            problem.show()  # type: ignore[attr-defined]
            return UsageError.exit_code
        if type(problem).__name__ == "Abort":
            return stopped()
        raise
    # Typer turns an interrupt into this code without a word.
    return stopped() if result == STOPPED else int(result or 0)


def _forgiving_streams() -> None:
    """Lets output replace what its encoding lacks, and go nowhere where it was closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="replace"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace" if name == "stdout" else "backslashreplace")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")


def _drop_output() -> None:
    """Sends what is still to be written to standard output nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stop(*_: object) -> None:
    """Ends like Ctrl-C, also where that is ignored, as in what a script put into the background."""
    raise KeyboardInterrupt


def stopped() -> int:
    """Says that the user stopped the command, and returns the exit code for it."""
    stderr.print("mediant: stopped.")
    return STOPPED
