"""Runs commands in forks of one process that has imported everything, with an end to their time and memory."""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

# Of the processor, and of the clock on a busy machine; bytes.
SECONDS, WALL, MEMORY = 60, 400, 6 << 30
# The exit code of what ended with an exception that no command handled.
CRASHED = 99


def import_all() -> None:
    """Imports what commands import, once, before the forks; torch must start no threads."""
    import torch

    import mediant

    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(mediant.__path__, "mediant."):
        importlib.import_module(module.name)


def run(arguments: list[str], work: Path) -> tuple[int, str, float]:
    """Exit code (negative: a signal), what was said on standard error, and seconds, of one command in a fork."""

    def command() -> int:
        from mediant.cli import _console, app

        sys.argv = ["mediant", *arguments]
        return _console.run(app)

    return run_forked(command, work)


def run_forked(job: Callable[[], int], work: Path) -> tuple[int, str, float]:
    """As `run`, of a function that returns an exit code."""
    begun = time.monotonic()
    said = work / ".said"
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            _become(job, said)
        os._exit(CRASHED)
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() - begun > WALL:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    text = said.read_text(errors="replace") if said.exists() else ""
    said.unlink(missing_ok=True)
    return os.waitstatus_to_exitcode(ended[1]), text, time.monotonic() - begun


def _become(job: Callable[[], int], said: Path) -> None:
    """Does the job in this process, which ends with it."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    error = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    null = os.open(os.devnull, os.O_RDWR)
    for source, target in ((null, 0), (null, 1), (error, 2)):
        os.dup2(source, target)
    os.chdir(said.parent)  # whatever is written under a relative name goes with the folder
    sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
    sys.stderr = open(2, "w", errors="backslashreplace")  # noqa: SIM115
    try:
        code = job()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = CRASHED
    sys.stderr.flush()
    os._exit(code)
