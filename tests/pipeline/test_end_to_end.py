"""The whole path through the command line: sizes, same bytes, kill -9, errors of one sentence."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import mediant
from mediant import files
from mediant.checkpoint.reader import open_checkpoint
from mediant.errors import MediantError, PlanError, SizeError
from mediant.pipeline.compress import begun, compress
from mediant.pipeline.request import Request
from mediant.values import Plan

COMMAND = [sys.executable, "-c", "from mediant.cli import main; main()"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    words = [
        "the",
        "quick",
        "brown",
        "fox",
        "jumps",
        "over",
        "the",
        "lazy",
        "dog",
        "and",
        "runs",
        "away",
        "from",
        "angry",
        "bees",
    ]
    generator = random.Random(0)
    file.write_text(" ".join(generator.choice(words) for _ in range(4000)), encoding="utf-8")
    return file


def contents(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


def cli(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def arguments(model: Path, out: Path, text: Path, size: object) -> list[object]:
    return ["compress", model, "--out", out, "--calibration", text, "--size", size]


@pytest.mark.parametrize("name", ["llama_tied", "gpt2", "opt", "mixtral", "bert"])
def test_never_above_the_size_and_hardly_below(name, tiny_folder, text, tmp_path):
    with begun(Request(str(tiny_folder(name)), tmp_path / "out", size="45%", calibration=text)) as run:
        smallest, largest = run.sizing.range()
        for share in (0.1, 0.5, 0.9):
            target = round(smallest + share * (largest - smallest))
            run.pack(run.plan_for(target))
            size = files.folder_bytes(tmp_path / "out")
            # A row of one more depth is all that may be left, and what the manifest says of one more run.
            row = max(t.matrix_shape[1] for t in run.model.tensors if t.layout != "none") // 8 + 64
            assert target - max(target // 200, row) <= size <= target


def test_an_infeasible_size_names_the_smallest_which_is_then_met(tiny_folder, text, tmp_path):
    request = Request(str(tiny_folder("llama")), tmp_path / "out", size="5000", calibration=text)
    with pytest.raises(SizeError, match=r"\((\d+) bytes\)") as refusal:
        compress(request)
    smallest = int(str(refusal.value).split("(")[-1].split(" ")[0])
    # The folder states its target, so the named size may be a few digits off.
    compress(Request(request.model, request.out, size=str(smallest + 16), calibration=text))
    assert files.folder_bytes(request.out) <= smallest + 16
    result = cli(*arguments(tiny_folder("llama"), tmp_path / "other", text, 5000))
    assert result.returncode == SizeError.exit_code
    assert not (tmp_path / "other").exists()


def test_the_same_bytes_twice_and_on_any_number_of_threads(tiny_folder, text, tmp_path):
    model = tiny_folder("llama_tied")
    for count in ("1", "2"):
        result = cli(*arguments(model, tmp_path / count, text, "40%"), MEDIANT_THREADS=count)
        assert result.returncode == 0, result.stderr
    compress(Request(str(model), tmp_path / "again", size="40%", calibration=text))
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "again")


def test_a_saved_plan_leads_to_the_same_bytes_and_an_edited_one_to_others(tiny_folder, text, tmp_path):
    model = str(tiny_folder("llama"))
    first = compress(Request(model, tmp_path / "first", size="40%", calibration=text))
    saved = tmp_path / "plan.json"
    saved.write_text(first.plan.to_json())
    compress(Request(model, tmp_path / "second", plan=saved, calibration=text))
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    assert Plan.from_json(saved.read_text()) == first.plan
    saved.write_text(saved.read_text().replace('"dtype": "float16"', '"dtype": "float32"', 1))
    compress(Request(model, tmp_path / "third", plan=saved, calibration=text))
    assert contents(tmp_path / "third") != contents(tmp_path / "first")


def test_a_plan_for_another_model_is_refused(tiny_folder, text, tmp_path):
    first = compress(Request(str(tiny_folder("llama")), tmp_path / "first", size="40%", calibration=text))
    saved = tmp_path / "plan.json"
    saved.write_text(first.plan.to_json())
    with pytest.raises(PlanError, match="another model"):
        compress(Request(str(tiny_folder("mistral")), tmp_path / "out", plan=saved, calibration=text))
    assert not (tmp_path / "out").exists()


def kill_and_finish(moments: int, model: Path, text: Path, tmp_path: Path) -> None:
    undisturbed = tmp_path / "undisturbed"
    begun = time.monotonic()
    assert cli(*arguments(model, undisturbed, text, "40%")).returncode == 0
    duration = time.monotonic() - begun
    generator = random.Random(1)
    out = tmp_path / "out"
    for _ in range(moments):
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments(model, out, text, "40%"))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(generator.uniform(0.3, 1) * duration)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists():
            assert contents(out) == contents(undisturbed)
            shutil.rmtree(out)
    assert cli(*arguments(model, out, text, "40%")).returncode == 0
    assert contents(out) == contents(undisturbed)
    assert {f.name for f in tmp_path.iterdir()} == {"undisturbed", "out"}


def test_killed_runs_go_on_and_end_the_same(tiny_folder, text, tmp_path):
    kill_and_finish(2, tiny_folder("llama_tied"), text, tmp_path)


@pytest.mark.slow
def test_killed_at_ten_moments(tiny_folder, text, tmp_path):
    kill_and_finish(10, tiny_folder("llama_tied"), text, tmp_path)


@pytest.mark.parametrize("name", ["llama", "llama_tied", "gpt2", "mixtral"])
def test_load_and_from_pretrained_give_the_same_logits(name, tiny_folder, text, tmp_path):
    compress(Request(str(tiny_folder(name)), tmp_path / "out", size="40%", calibration=text))
    ours, theirs = mediant.load(tmp_path / "out"), AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(24)[None]
    with torch.inference_mode():
        assert torch.equal(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)
    state = ours.state_dict()
    for tensor, weights in open_checkpoint(tmp_path / "out").state():
        np.testing.assert_array_equal(state[tensor].numpy(), weights)


def test_a_corrected_bias_takes_up_the_mean_error(tiny_folder, text, tmp_path):
    with begun(Request(str(tiny_folder("opt")), tmp_path / "out", size="45%", calibration=text)) as run:
        checkpoint, layers = run.pack(run.plan()), run.statistics.layers
    original = load_file(next(tiny_folder("opt").glob("*.safetensors")))
    corrected = {n: n.removesuffix("bias") + "weight" for n, t in checkpoint.plan.tensors.items() if t.bias_correction}
    assert corrected
    for bias, weight in corrected.items():
        error = (original[weight].double().numpy() - checkpoint.weight(weight)) @ layers[weight].input_mean
        left = error + original[bias].double().numpy() - checkpoint.weight(bias)
        # float16 stores the bias to 2^-11 of its size.
        assert np.abs(left).max() <= 2**-11 * np.abs(checkpoint.weight(bias)).max() + 1e-6


def broken(kind: str, folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    if kind == "missing":
        return tmp_path / "nowhere"
    if kind == "no weights":
        (copy / "model.safetensors").unlink()
    if kind == "wrong architecture":
        config = (copy / "config.json").read_text()
        (copy / "config.json").write_text(config.replace('"llama"', '"nonesuch"'))
    if kind == "NaN":
        weights = load_file(copy / "model.safetensors")
        next(iter(weights.values())).view(-1)[3] = float("nan")
        save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return copy


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "nowhere"),
        ("no weights", "weights"),
        ("wrong architecture", "nonesuch"),
        ("NaN", "not finite"),
    ],
)
def test_a_bad_model_is_one_clear_sentence(kind, words, tiny_folder, text, tmp_path):
    model = broken(kind, tiny_folder("llama"), tmp_path)
    result = cli(*arguments(model, tmp_path / "out", text, "40%"))
    message = " ".join(result.stderr.split())
    assert result.returncode not in (0, 1)
    assert words in message
    assert "Traceback" not in message
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_clear_sentence(tiny_folder, text, tmp_path, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(MediantError, match="no space left"):
        compress(Request(str(tiny_folder("llama")), tmp_path / "out", size="40%", calibration=text))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_keeps_what_is_done(tiny_folder, text, tmp_path, monkeypatch):
    request = Request(str(tiny_folder("llama")), tmp_path / "out", size="40%", calibration=text)

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", interrupt)
        with pytest.raises(KeyboardInterrupt):
            compress(request)
    assert not (tmp_path / "out").exists()
    compress(request)
    assert {f.name for f in tmp_path.iterdir()} == {"out"}


@pytest.mark.parametrize("recipe", ["default", "nearest", "rtn", "hqq"])
def test_every_recipe_compresses(recipe, tiny_folder, text, tmp_path):
    checkpoint = compress(
        Request(str(tiny_folder("llama")), tmp_path / "out", size="40%", recipe=recipe, calibration=text)
    )
    assert checkpoint.plan.recipe == recipe


def test_the_smallest_file_within_a_loss(tiny_folder, text, tmp_path):
    checkpoint = compress(Request(str(tiny_folder("llama")), tmp_path / "out", max_kl=0.02, calibration=text))
    assert checkpoint.plan.target_bytes is not None
    with pytest.raises(SizeError, match="cannot be met"):
        compress(Request(str(tiny_folder("llama")), tmp_path / "out", max_kl=1e-12, calibration=text))
