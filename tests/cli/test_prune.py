from __future__ import annotations

import json

import pytest
from transformers import AutoModelForCausalLM

from mediant import files
from mediant.checkpoint.reader import open_checkpoint
from mediant.errors import PlanError, StorageError, TextError, UsageError


def test_parts_that_go_leave_an_ordinary_model(run, tiny_folder, text, tmp_path, capsys):
    options = ("--neurons", "25%", "--layers", 1, "--calibration", text)
    assert run(tiny_folder("llama"), *options, "--out", "thin", "--json", "-") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "out": "thin",
        "bytes": files.folder_bytes(tmp_path / "thin"),
        "parts": {"layers": "1", "neurons": "25%"},
        "pattern": {},
        "seed": 0,
    }
    assert "mediant evaluate thin --reference" in " ".join(shown.err.split())
    network, report = AutoModelForCausalLM.from_pretrained("thin", output_loading_info=True)
    assert not any(report.values())
    assert (network.config.num_hidden_layers, network.config.intermediate_size) == (1, 36)
    assert {file.name for file in tmp_path.iterdir()} == {"thin", "text.txt"}


def test_zeros_make_a_checkpoint_that_stores_the_rest(run, tiny_folder, text, tmp_path, capsys):
    assert run(tiny_folder("llama"), "--pattern", "2:4", "--calibration", text, "--out", "sparse", "--seed", 3) == 0
    assert "MB (" in capsys.readouterr().out
    checkpoint = open_checkpoint(tmp_path / "sparse")
    assert checkpoint.manifest.seed == 3
    sparse = [name for name, tensor in checkpoint.plan.tensors.items() if tensor.ledger == "pruned"]
    assert len(sparse) == 14
    for name in sparse:
        assert ((checkpoint.weight(name).reshape(-1, 4) != 0).sum(axis=1) <= 2).all()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ((), UsageError, "Say what to prune"),
        (("--pattern", "2:4", "--sparsity", "50%"), UsageError, "leave --sparsity out"),
        (("--pattern", "blocks"), UsageError, "needs --sparsity"),
        (("--pattern", "stripes", "--sparsity", "50%"), UsageError, "it takes row, matrix, blocks or N:M"),
        (("--sparsity", "half"), UsageError, "it takes a share below 100%"),
        (("--sparsity", "50%", "--score", "size"), UsageError, "size"),
        (("--pattern", "4:2"), PlanError, "4 of 2 is no pattern"),
        (("--pattern", "3:7"), PlanError, "no multiple of 7"),
        (("--layers", "2"), UsageError, "a number below 2"),
        (("--neurons", "all"), UsageError, "a number below 48"),
        (("--neurons", "25%", "--calibration", "nowhere.txt"), TextError, "nowhere.txt"),
    ],
)
def test_what_cannot_be_pruned_is_one_sentence(options, error, words, run, tiny_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mediant.statistics.calibration_text.sampled_windows", None)  # refused before any work
    assert run(tiny_folder("llama"), *options, "--out", "out") == error.exit_code
    message = " ".join(capsys.readouterr().err.split())
    assert words in message
    assert "Traceback" not in message
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("options", [("--neurons", "25%"), ("--pattern", "2:4")])
def test_what_is_there_already_stays(options, run, tiny_folder, text, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/letter.txt").write_text("dear")
    code = run(tiny_folder("llama"), *options, "--calibration", text, "--out", "out")
    assert code == StorageError.exit_code
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["letter.txt"]
