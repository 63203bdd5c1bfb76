"""`mediant bench` on a tiny model: what it reports, not how fast it is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mediant.cli import _console
from mediant.errors import ModelError, UsageError
from mediant.kernels import native
from mediant.runtime import llama_cpp, speed
from mediant.runtime.activation_bits import USUAL

pytestmark = pytest.mark.skipif(native is None, reason="needs the native kernels")
Folder = Callable[[str], Path]
Run = Callable[..., int]
SMALL = ("--rounds", "2", "--prompt-tokens", "16", "--tokens", "4")


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures the memory's bandwidth on a megabyte."""
    monkeypatch.setattr(speed, "BANDWIDTH_BYTES", 1 << 20)


def test_figures_are_by_thread_count(run: Run, tiny_folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tiny_folder("llama"), *SMALL, "--threads", "1,2", "--precision", "--json", "o.json") == 0
    found = json.loads(Path("o.json").read_text())
    for name in ("decode_tokens_per_second", "prefill_tokens_per_second", "bandwidth_fraction"):
        assert set(found[name]) == {"1", "2"}
        assert all(value > 0 for value in found[name].values())
    assert found["peak_memory_bytes"] > found["bytes_per_token"] > 0
    assert [row["kl"] for row in found["precision"]] == [0]
    assert "decode_ratio" not in found
    assert not found["partial"]
    assert found["activation_bits"] == USUAL
    assert "peak memory" in capsys.readouterr().out


def test_what_was_measured_before_an_interruption_is_kept(
    run: Run, tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = [1.0, 1.0, 2.0]

    def interrupted(*_: object) -> float:
        if not seconds:
            raise KeyboardInterrupt
        return seconds.pop()

    monkeypatch.setattr(speed.NativeRunner, "prefill_seconds", interrupted)
    monkeypatch.setattr(speed.NativeRunner, "decode_seconds", lambda *_: 1.0)
    assert run(tiny_folder("llama"), *SMALL, "--threads", "1,2", "--json", "o.json") == _console.STOPPED
    found = json.loads(Path("o.json").read_text())
    assert found["partial"]
    assert (found["decode_tokens_per_second"], found["prefill_tokens_per_second"]) == ({"1": 4.0}, {"1": 16.0})
    said = capsys.readouterr()
    assert "1 threads: writes 4.0, reads 16 tokens a second" in said.err
    assert "16" in said.out


def test_an_interruption_of_what_comes_later_keeps_all_rates(
    run: Run, tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    for name in ("bandwidth", "alone"):
        with monkeypatch.context() as patch:
            patch.setattr(speed, name, interrupted)
            assert run(tiny_folder("llama"), *SMALL, "--threads", "1", "--json", "o.json") == _console.STOPPED
        found = json.loads(Path("o.json").read_text())
        assert found["partial"]
        assert found["decode_tokens_per_second"]["1"] > 0
        assert ("bandwidth_fraction" in found) == (name == "alone")


def test_memory_is_that_of_the_program_alone() -> None:
    held = b"x" * (1 << 28)
    code = "from mediant.runtime.speed import peak_bytes; print(peak_bytes())"
    peak = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0 < peak < len(held)


def test_llama_cpp_takes_turns(run: Run, tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice:
        """Half as fast as it says ours is."""

        vocabulary = 320

        def __init__(self, *_: object) -> None: ...

        def set_threads(self, threads: int) -> None: ...

        def prefill_seconds(self, tokens: list[int]) -> float:
            return 2.0

        def decode_seconds(self, start: list[int], count: int) -> float:
            return 4.0

    monkeypatch.setattr(llama_cpp, "LlamaCppRunner", Twice)
    monkeypatch.setattr(speed.NativeRunner, "prefill_seconds", lambda *_: 1.0)
    monkeypatch.setattr(speed.NativeRunner, "decode_seconds", lambda *_: 1.0)
    monkeypatch.setattr(speed, "alone", lambda *_: {"load_seconds": 1.0, "peak_memory_bytes": 5})
    assert run(tiny_folder("llama"), *SMALL, "--threads", "1", "--against", "x.gguf", "--json", "o.json") == 0
    found = json.loads(Path("o.json").read_text())
    assert (found["prefill_ratio"], found["decode_ratio"]) == ({"1": 2.0}, {"1": 4.0})


def test_mistakes_have_their_exit_codes(
    run: Run, tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    llama = tiny_folder("llama")
    assert run(llama, "--threads", "one") == UsageError.exit_code
    assert run(llama, "--activations", 7) == UsageError.exit_code
    assert run(llama, "--prompt-tokens", 4000) == UsageError.exit_code
    assert run(tiny_folder("gpt2")) == ModelError.exit_code
    assert run(llama, *SMALL, "--against", "nowhere.gguf") == ModelError.exit_code
    Path("x.gguf").touch()

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(llama_cpp, "importlib", SimpleNamespace(import_module=missing))
    capsys.readouterr()
    assert run(llama, *SMALL, "--against", "x.gguf") == UsageError.exit_code
    assert "pip install llama-cpp-python" in capsys.readouterr().err.replace("\n", " ")
