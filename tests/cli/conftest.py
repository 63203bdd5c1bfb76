"""One way to run a command in this process, and a short text for those that measure on one."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from mediant.cli import _console

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "and", "runs", "away", "from", "angry", "bees"]


@pytest.fixture
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Runs the command that the test's file is named for, in a folder of its own; gives the exit code."""
    name = request.module.__name__.rpartition("test_")[2]
    file = importlib.import_module(f"mediant.cli.{name}")
    app = typer.Typer()
    app.command(cls=getattr(file, "COMMAND_CLASS", None))(file.command)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        return _console.run(app)

    return call


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Words at random, a few windows of the tiny models long."""
    generator = random.Random(0)
    (tmp_path / "text.txt").write_text(" ".join(generator.choice(WORDS) for _ in range(400)))
    return tmp_path / "text.txt"
