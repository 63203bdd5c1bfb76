"""The command: its table, its JSON, its page."""

from __future__ import annotations

import json
from pathlib import Path

from mediant.errors import PlanError


def test_one_table(run, tiny_folder, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog and runs away . " * 30)
    folder = tiny_folder("llama")
    options = ("--calibration", text, "--text", text, "--windows", 2, "--window", 32, "--json", "t.json")
    assert run(folder, "--size", "52kB", "--recipes", "rtn, gptq", *options, "--html", "t.html", "--out", "c") == 0
    shown = capsys.readouterr()
    assert "gptq" in shown.out
    assert "2 windows show a trend" in shown.err
    figures = json.loads(Path("t.json").read_text())
    assert [row["recipe"] for row in figures["rows"]] == ["rtn", "gptq"]
    assert figures["rows"][0]["scores"][0]["text"] == "text.txt"
    assert "rtn" in Path("t.html").read_text()


def test_an_unknown_recipe_is_one_sentence(run, tiny_folder, capsys):
    assert run(tiny_folder("llama"), "--size", "50%", "--recipes", "rtn,nothing") == PlanError.exit_code
    assert "nothing" in capsys.readouterr().err
