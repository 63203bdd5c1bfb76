"""`mediant experts` on a tiny model: an ordinary folder, figures, refusals in one sentence, the same bytes again."""

from __future__ import annotations

import json
import random

import pytest
import torch
import typer
from transformers import AutoModelForCausalLM

from mediant import files
from mediant.cli import _console, experts
from mediant.errors import MediantError, StorageError, UsageError

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "and", "runs", "away", "from", "angry", "bees"]


@pytest.fixture
def run(monkeypatch, tmp_path):
    app = typer.Typer()
    app.command()(experts.command)
    monkeypatch.chdir(tmp_path)
    generator = random.Random(0)
    (tmp_path / "text.txt").write_text(" ".join(generator.choice(WORDS) for _ in range(900)))

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["experts", *map(str, arguments), "--calibration", "text.txt"])
        return _console.run(app)

    return call


def test_a_mixture_that_transformers_loads(run, tiny_folder, tmp_path):
    for name in ("one", "two"):
        model = tiny_folder("llama_tied")
        assert run(model, "--experts", 4, "--out", name, "--json", f"{name}.json") == 0
    figures = json.loads((tmp_path / "one.json").read_text())
    assert (figures["experts"], figures["active"], figures["neurons"], figures["shared"]) == (3, 1, 12, 12)
    network, report = AutoModelForCausalLM.from_pretrained(tmp_path / "one", output_loading_info=True)
    assert not any(report.values())
    assert type(network).__name__ == "Qwen2MoeForCausalLM"
    assert torch.isfinite(network(input_ids=torch.arange(9)[None]).logits).all()
    assert {f.name for f in tmp_path.iterdir()} == {"text.txt", "one", "two", "one.json", "two.json"}
    hashes = [{f.name: files.file_sha256(f) for f in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert hashes[0] == hashes[1]


def test_all_active_loses_nothing_and_learning_does_no_harm(run, tiny_folder, tmp_path):
    model = tiny_folder("llama")
    assert run(model, "--experts", 4, "--active", "100%", "--out", "all", "--json", "all.json") == 0
    # The routers' small logits weigh experts a little unequally.
    assert json.loads((tmp_path / "all.json").read_text())["kl_fitted"] < 1e-3
    assert run(model, "--experts", 4, "--tune", 0.02, "--out", "tuned", "--json", "tuned.json") == 0
    figures = json.loads((tmp_path / "tuned.json").read_text())
    assert figures["tune_steps"] > 0
    assert figures["kl_tuned"] <= figures["kl_fitted"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("llama", ["--experts", 5], "cannot be cut"),
        ("llama", ["--active", "30%"], "not a whole number"),
        ("llama", ["--active", "half"], "such as 50%"),
        ("llama", ["--active", "150%"], "above 0 up to 1"),
        ("llama", ["--shared", 4], "cannot be shared"),
        ("llama", ["--learn", "norms"], "routers or all"),
        ("mistral", [], "sliding window"),
        ("gpt2", [], "known width"),
        ("bert", [], "known width"),
    ],
)
def test_refusals(name, options, words, run, tiny_folder, tmp_path, capsys):
    assert run(tiny_folder(name), *options, "--out", "out") not in (0, None)
    assert words in capsys.readouterr().err.replace("\n", " ")
    assert {f.name for f in tmp_path.iterdir()} == {"text.txt"}


def test_nothing_is_written_over(run, tiny_folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    assert run(tiny_folder("llama"), "--out", "out") == StorageError.exit_code
    assert issubclass(UsageError, MediantError)
