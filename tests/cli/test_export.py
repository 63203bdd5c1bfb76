from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mediant.exporters import huggingface


def test_a_folder_with_the_names_of_the_original(run, tiny_folder, tmp_path, capsys):
    assert run(tiny_folder("qwen3_moe"), "--out", tmp_path / "out") == 0
    before, after = (load_file(p / "model.safetensors") for p in (tiny_folder("qwen3_moe"), tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    _, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    assert "Wrote" in capsys.readouterr().err


def test_unknown_formats_and_types_are_one_sentence(run, tiny_folder, tmp_path, capsys):
    assert run(tiny_folder("llama"), "--format", "onnx", "--out", tmp_path / "out") == 2
    assert run(tiny_folder("llama"), "--type", "int4", "--out", tmp_path / "out") == 2
    assert "float16, bfloat16, float32" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", ["value", "missing"])
def test_what_does_not_read_back_is_removed(wrong, run, tiny_folder, tmp_path, monkeypatch, capsys):
    """A fault between the check's own reading and the disk: one value changed, or a tensor that is not there."""

    def spoil(folder):
        state = load_file(folder / "model.safetensors")
        if wrong == "value":
            state["model.norm.weight"][3] += 1e-3
        else:
            del state["model.norm.weight"]
        save_file(state, folder / "model.safetensors", {"format": "pt"})

    check = huggingface._check_tensors
    monkeypatch.setattr(huggingface, "_check_tensors", lambda tensors, folder, progress: spoil(folder))
    assert run(tiny_folder("llama"), "--out", tmp_path / "out") == 9
    assert "nothing was kept" in capsys.readouterr().err
    monkeypatch.setattr(
        huggingface,
        "_check_tensors",
        lambda tensors, folder, progress: (spoil(folder), check(tensors, folder, progress)),
    )
    if wrong == "value":
        assert run(tiny_folder("llama"), "--out", tmp_path / "out") == 9
        assert "'model.norm.weight'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert run(tiny_folder("llama"), "--out", tmp_path / "out", "--no-check") == 0


def test_help_needs_no_torch():
    code = "import sys; from mediant.cli import app; import mediant.cli.export; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
