"""`mediant ranges` on a small packed model, and `mediant generate` within what it found."""

from __future__ import annotations

import json

import pytest
import typer
from tests.runtime.conftest import write_encoded
from tests.runtime.test_opening import tiled

from mediant.cli import _console, generate, ranges
from mediant.kernels import native

pytestmark = pytest.mark.skipif(native is None, reason="needs the native kernels")


@pytest.fixture
def run(monkeypatch, tmp_path):
    app = typer.Typer()
    app.command("ranges")(ranges.command)
    app.command("generate")(generate.command)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["mediant", *map(str, arguments)])
        return _console.run(app)

    return call


@pytest.fixture
def folder(tiny_folder, tmp_path):
    write_encoded(tiny_folder("llama"), tmp_path / "tiled", tiled)
    (tmp_path / "text").write_text("the quick brown fox jumps over the lazy dog " * 40)
    return tmp_path / "tiled"


def test_ranges_are_found_and_used(run, folder, tmp_path, capsys):
    small = ("--windows", 2, "--window", 16)
    assert run("ranges", folder, "--calibration", "text", "--out", "r", *small, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 32
    asked = ("generate", folder, "the quick", "--max-tokens", 4, "--activations", 8)
    assert run(*asked, "--activation-ranges", "r", "--json", "o.json") == 0
    found = json.loads((tmp_path / "o.json").read_text())
    assert found["activation_ranges"] == "r"
    assert found["tokens"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [  # the exit codes are those of a text that is not there, and of a wrong call
        (("ranges", "tiled", "--calibration", "text", "--out", "r", "--method", "best"), "min_max, percentile or kl"),
        (("ranges", "tiled", "--calibration", "none", "--out", "r"), "no text file none"),
        (("generate", "tiled", "the", "--activation-ranges", "none"), "no file of ranges none"),
        (("generate", "tiled", "the", "--activation-ranges", "r", "--runtime", "transformers"), "native decoder"),
    ],
)
def test_refusals(run, folder, capsys, arguments, said):
    assert run(*arguments) in (2, 5)
    assert said in " ".join(capsys.readouterr().err.split())
