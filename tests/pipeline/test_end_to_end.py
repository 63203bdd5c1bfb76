"""The whole path through the command line: sizes, same bytes, kill -9, errors of one sentence."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from mediant.errors import MediantError, SizeError
from mediant.pipeline.compress import begun, compress
from mediant.pipeline.request import CompressRequest

COMMAND = [sys.executable, "-c", "from mediant.cli import main; main()"]


def cli(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def arguments(model: Path, out: Path, text: Path, size: object) -> list[object]:
    return ["compress", model, "--out", out, "--calibration", text, "--size", size]


def test_the_same_bytes_twice_and_on_any_number_of_threads(tiny_folder, text, contents, tmp_path):
    model = tiny_folder("llama_tied")
    for count in ("1", "2"):
        result = cli(*arguments(model, tmp_path / count, text, "45%"), MEDIANT_THREADS=count)
        assert result.returncode == 0, result.stderr
    compress(CompressRequest(str(model), tmp_path / "again", size="45%", calibration=text))
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "again")


def kill_and_finish(moments: int, model: Path, text: Path, tmp_path: Path, contents: Callable) -> None:
    undisturbed = tmp_path / "undisturbed"
    begun = time.monotonic()
    assert cli(*arguments(model, undisturbed, text, "45%")).returncode == 0
    duration = time.monotonic() - begun
    generator = random.Random(1)
    out = tmp_path / "out"
    for _ in range(moments):
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments(model, out, text, "45%"))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(generator.uniform(0.3, 1) * duration)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists():
            assert contents(out) == contents(undisturbed)
            shutil.rmtree(out)
    assert cli(*arguments(model, out, text, "45%")).returncode == 0
    assert contents(out) == contents(undisturbed)
    assert {f.name for f in tmp_path.iterdir()} == {"undisturbed", "out"}


def test_killed_runs_go_on_and_end_the_same(tiny_folder, text, contents, tmp_path):
    kill_and_finish(2, tiny_folder("llama_tied"), text, tmp_path, contents)


@pytest.mark.slow
def test_killed_at_ten_moments(tiny_folder, text, contents, tmp_path):
    kill_and_finish(10, tiny_folder("llama_tied"), text, tmp_path, contents)


def test_a_corrected_bias_takes_up_the_mean_error(tiny_folder, text, tmp_path):
    with begun(CompressRequest(str(tiny_folder("opt")), tmp_path / "out", size="55%", calibration=text)) as run:
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
        compress(CompressRequest(str(tiny_folder("llama")), tmp_path / "out", size="40%", calibration=text))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_keeps_what_is_done(tiny_folder, text, tmp_path, monkeypatch):
    request = CompressRequest(str(tiny_folder("llama")), tmp_path / "out", size="40%", calibration=text)

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", interrupt)
        with pytest.raises(KeyboardInterrupt):
            compress(request)
    assert not (tmp_path / "out").exists()
    compress(request)
    assert {f.name for f in tmp_path.iterdir()} == {"out"}


def test_the_smallest_file_within_a_loss(tiny_folder, text, tmp_path):
    checkpoint = compress(CompressRequest(str(tiny_folder("llama")), tmp_path / "out", max_kl=0.02, calibration=text))
    assert checkpoint.plan.target_bytes is not None
    with pytest.raises(SizeError, match="cannot be met"):
        compress(CompressRequest(str(tiny_folder("llama")), tmp_path / "out", max_kl=1e-12, calibration=text))
