from __future__ import annotations

import json

import pytest

from mediant import files
from mediant.checkpoint.reader import open_checkpoint
from mediant.cli.factor import RECIPES
from mediant.errors import SizeError, TextError, UsageError
from mediant.models.opening import open_model


@pytest.mark.parametrize("method", ["truncated", "whitened"])
def test_matrices_become_products_within_the_budget(method, run, tiny_folder, text, tmp_path):
    options = ("--method", method, "--size", "50kB", "--calibration", text, "--save-plan", "plan.json")
    assert run(tiny_folder("llama"), *options, "--out", "thin", "--json", "o.json") == 0
    figures = json.loads((tmp_path / "o.json").read_text())
    assert figures["recipe"] == RECIPES[method]
    assert figures["bytes"] == files.folder_bytes(tmp_path / "thin") <= 50_000
    checkpoint = open_checkpoint(tmp_path / "thin")
    assert any(tensor.ledger == "factored" for tensor in checkpoint.plan.tensors.values())
    assert json.loads((tmp_path / "plan.json").read_text())["recipe"] == RECIPES[method]


def test_a_budget_is_a_share_of_all_weights_in_two_bytes(run, tiny_folder, text, tmp_path):
    weights = open_model(str(tiny_folder("llama"))).weights
    for budget in ("80%", "0.8"):
        options = ("--rank-budget", budget, "--calibration", text, "--dry-run")
        assert run(tiny_folder("llama"), *options, "--out", "thin", "--json", "o.json") == 0
        assert json.loads((tmp_path / "o.json").read_text())["target_bytes"] == 8 * 2 * weights // 10
    assert not (tmp_path / "thin").exists()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ((), UsageError, "exactly one of --size and --rank-budget"),
        (("--size", "50kB", "--rank-budget", "80%"), UsageError, "exactly one of --size and --rank-budget"),
        (("--rank-budget", "some"), UsageError, "it takes a share from 0 to 1"),
        (("--rank-budget", "120%"), UsageError, "it takes a share from 0 to 1"),
        (("--rank-budget", "0"), UsageError, "it takes a share from 0 to 1"),
        (("--rank-budget", "1/0"), UsageError, "it takes a share from 0 to 1"),
        (("--size", "50kB", "--method", "magic"), UsageError, "magic"),
        (("--size", "1"), SizeError, "smallest"),
        (("--size", "1GB"), SizeError, "largest"),
        (("--size", "50kB", "--calibration", "nowhere.txt"), TextError, "nowhere.txt"),
    ],
)
def test_what_cannot_be_factored_is_one_sentence(options, error, words, run, tiny_folder, text, tmp_path, capsys):
    assert run(tiny_folder("llama"), "--calibration", text, *options, "--out", "out") == error.exit_code
    message = " ".join(capsys.readouterr().err.split())
    assert words in message
    assert "Traceback" not in message
    assert [file.name for file in tmp_path.iterdir()] == ["text.txt"]
