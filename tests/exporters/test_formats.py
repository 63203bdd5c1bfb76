"""A format is one file: found by its name, with help, types and a check on by default."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from mediant import exporters
from mediant.errors import UsageError

TOY = """
from pathlib import Path
TYPES, USUAL, HELP = ("short", "long"), "short", "a toy."
def export(spec, out, kind, progress, check):
    Path(out).write_text(f"{spec} {kind} {check}")
"""


def test_every_format_says_what_the_command_needs():
    assert exporters.formats() == ("gguf", "huggingface")
    for name in exporters.formats():
        exporter = exporters.exporter(name)
        assert exporter.USUAL in exporter.TYPES
        assert exporter.HELP.endswith(".")
        exporters.check_type(name, exporter.USUAL)
    with pytest.raises(UsageError, match="gguf, huggingface"):
        exporters.exporter("onnx")


def test_a_new_file_is_a_new_format(tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(exporters, "__path__", [*exporters.__path__, str(tmp_path)])
    from mediant.cli import export

    try:
        import typer

        app = typer.Typer()
        app.command()(export.command)
        done = CliRunner().invoke(app, ["model", "--format", "toy", "--out", str(tmp_path / "out"), "--no-check"])
    finally:
        sys.modules.pop("mediant.exporters.toy", None)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out").read_text() == "model short False"
