from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from mediant.errors import ModelError, PlanError, StorageError, TextError, UsageError


@pytest.fixture(scope="module")
def student(tiny_network, tokenizer, tmp_path_factory):
    """The tiny Llama, off by random numbers."""
    folder = tmp_path_factory.mktemp("student") / "student"
    network = tiny_network("llama")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_student_learns_and_is_an_ordinary_model(run, student, tiny_folder, text, tmp_path, capsys):
    options = ("--teacher", tiny_folder("llama"), "--text", text, "--steps", 8, "--rate", 5e-3)
    assert run(student, *options, "--out", "taught", "--json", "o.json") == 0
    figures = json.loads((tmp_path / "o.json").read_text())
    assert (figures["out"], figures["steps"], figures["kept"]) == ("taught", 8, True)
    assert figures["kl_after"] < figures["kl_before"]
    said = f"KL {figures['kl_before']:.4f} -> {figures['kl_after']:.4f} nats"
    assert said in " ".join(capsys.readouterr().out.split())
    _, report = AutoModelForCausalLM.from_pretrained("taught", output_loading_info=True)
    assert not any(report.values())
    assert {file.name for file in tmp_path.iterdir()} == {"taught", "text.txt", "o.json"}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (("--steps", 5, "--minutes", 1), UsageError, "exactly one of --minutes and --steps"),
        (("--steps", 0), UsageError, "a whole number from 1"),
        (("--minutes", -1), UsageError, "a positive number"),
        (("--steps", 5, "--batch", 0), UsageError, "a whole number from 1"),
        (("--steps", 5, "--alpha", 2), PlanError, "alpha from 0 to 1"),
        (("--steps", 5, "--text", "nowhere.txt"), TextError, "nowhere.txt"),
        (("--steps", 5, "--teacher", "nobody/nowhere"), ModelError, "nobody/nowhere"),
    ],
)
def test_what_cannot_be_taught_is_one_sentence(options, error, words, run, student, tiny_folder, tmp_path, capsys):
    code = run(student, "--teacher", tiny_folder("llama"), *options, "--out", "out")
    message = " ".join(capsys.readouterr().err.split())
    assert (code, words in message) == (error.exit_code, True), message
    assert "Traceback" not in message
    assert not any(tmp_path.iterdir())


def test_a_teacher_of_another_kind_is_refused(run, student, tiny_folder, text, capsys):
    code = run(student, "--teacher", tiny_folder("bert"), "--text", text, "--steps", 2, "--out", "out")
    assert code == ModelError.exit_code
    assert "Traceback" not in capsys.readouterr().err


def test_what_is_there_already_stays(run, student, tiny_folder, text, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/letter.txt").write_text("dear")
    code = run(student, "--teacher", tiny_folder("llama"), "--text", text, "--steps", 2, "--out", "out")
    assert code == StorageError.exit_code
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["letter.txt"]
