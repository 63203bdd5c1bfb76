"""A command that is told to end ends, in the background too."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from mediant.cli._console import STOPPED

WAITS = """
import time, typer
from mediant.cli._console import run

app = typer.Typer()

@app.command()
def wait():
    print("ready", flush=True)
    time.sleep(60)

raise SystemExit(run(app))
"""


@pytest.mark.parametrize("interrupts", [signal.SIG_DFL, signal.SIG_IGN])
def test_termination_stops_a_command(interrupts):
    """A shell script leaves what it puts into the background with interrupts ignored."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, interrupts),
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == STOPPED
    assert "stopped" in said
