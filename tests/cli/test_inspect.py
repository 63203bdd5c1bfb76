from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mediant.checkpoint.manifest import Calibration
from mediant.checkpoint.writer import write
from mediant.cli import _console, app
from mediant.errors import CheckpointError, UsageError
from mediant.files import folder_bytes
from mediant.forms import Encoding
from mediant.forms.cast.form import Cast
from mediant.forms.quantize.form import Quantize
from mediant.kernels.bit_planes import pack
from mediant.planning.plan import Plan
from mediant.values import Certificate, Model, RowSpan, TensorInfo

GRID = {"name": "uniform", "kind": "half"}
QUANTIZED = Quantize(grid=GRID, runs=(RowSpan(3, 2), RowSpan(5, 4)), group=8, scale_bits=16)
PLANS = {
    TensorInfo("layers.0.up.weight", (8, 12), "float32", "linear", "out_in", "layers.0.up", 0): QUANTIZED,
    TensorInfo("layers.1.up.weight", (8, 12), "float32", "linear", "out_in", "layers.1.up", 1): QUANTIZED,
    TensorInfo("layers.0.norm.weight", (12,), "float32", "norm"): Cast("float16"),
    TensorInfo("layers.1.norm.weight", (12,), "float32", "norm"): Cast("float16"),
    TensorInfo("positions", (2, 3), "float32", "other"): Cast("float32"),
}
WEIGHTS = 2 * 96 + 2 * 12 + 6


def encodings() -> list[Encoding]:
    codes = np.concatenate([pack(np.arange(36) % 4, 2), pack(np.arange(60) % 16, 4)])
    parts = {"codes": codes, "scales": np.full((8, 2), 0x3F80, np.uint16)}
    certificate = Certificate(0.0123, 0.02, 0.5, 0.0)
    return [
        Encoding(info, plan, parts, certificate)
        if plan.method == "quantize"
        else Encoding(info, plan, {"data": np.zeros(info.shape, plan.dtype)})
        for info, plan in PLANS.items()
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = Model(tmp_path, "small [bold]model", "SmallForCausalLM", {}, tuple(PLANS), "ab" * 32)
    plan = Plan(model.fingerprint, "default", 7, {t.name: p for t, p in PLANS.items()}, 5000, 0.25)
    sidecar_files = {"config.json": b"{}", "README.md": b"about"}
    write(tmp_path / "out", model, plan, Calibration("words.txt", 1234, "cd" * 32), encodings(), sidecar_files)
    return tmp_path / "out"


@pytest.fixture
def inspect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command; gives exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mediant", "inspect", *map(str, arguments)])
        code = _console.run(app)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def figures(inspect: Callable[..., Any], folder: Path, *options: str) -> dict[str, Any]:
    code, out, _ = inspect(folder, "--json", "-", *options)
    assert code == 0
    return dict(json.loads(out))


def test_the_figures_are_those_of_the_files(inspect: Callable[..., Any], folder: Path) -> None:
    found = figures(inspect, folder)
    assert found["bytes"] == folder_bytes(folder) == sum(found["files"].values())
    assert found["files"] == {file.name: file.stat().st_size for file in folder.iterdir()}
    assert found["bits_per_weight"] == 8 * folder_bytes(folder) / WEIGHTS
    assert found["model"]["weights"] == WEIGHTS
    assert (found["recipe"], found["seed"], found["target_bytes"]) == ("default", 7, 5000)
    assert found["calibration"] == {"source": "words.txt", "tokens": 1234, "text_fingerprint": "cd" * 32}


def test_every_byte_of_payload_is_in_one_part_one_role_and_one_tensor(
    inspect: Callable[..., Any], folder: Path
) -> None:
    found = figures(inspect, folder)
    codes, scales, data = 2 * (2 * 5 + 4 * 8), 2 * 32, 2 * 24 + 24
    assert found["parts"] == {"codes": codes, "scales": scales, "data": data}
    for lines in (found["roles"], found["tensors"]):
        assert sum(line["bytes"] for line in lines) == codes + scales + data
        assert sum(line["weights"] for line in lines) == WEIGHTS
    assert [(line["role"], line["method"], line["tensors"]) for line in found["roles"]] == [
        ("linear", "quantize", 2),
        ("norm", "cast", 2),
        ("other", "cast", 1),
    ]


def test_every_tensor_says_what_became_of_it(inspect: Callable[..., Any], folder: Path) -> None:
    lines = {line["name"]: line for line in figures(inspect, folder)["tensors"]}
    assert list(lines) == [info.name for info in PLANS]
    matrix = lines["layers.1.up.weight"]
    assert (matrix["grid"], matrix["runs"], matrix["group"], matrix["scale_bits"]) == (GRID, [[3, 2], [5, 4]], 8, 16)
    assert matrix["certificate"]["relative_error"] == 0.0123
    assert (lines["positions"]["method"], lines["positions"]["dtype"]) == ("cast", "float32")
    assert lines["positions"]["certificate"] is None


def test_the_tables_show_sizes_bit_widths_errors_and_the_untouched(inspect: Callable[..., Any], folder: Path) -> None:
    code, out, _ = inspect(folder, "--tensors")
    assert code == 0
    for text in (
        "small [bold]model (SmallForCausalLM, 222 weights)",
        f"{folder_bytes(folder):,} bytes",
        "words.txt, 1,234 tokens",
        "uniform g8 s16",
        "2–4 (3.25)",
        "1.2e-02",
        "222 of 222 weights: 192 quantized, 30 cast",
        "not quantized, float16: layers.*.norm.weight (2 tensors)",
        "not quantized, float32: positions",
    ):
        assert text in out
    assert all(info.name.removesuffix(".weight") in out for info in PLANS)
    assert "layers.1.up" not in inspect(folder)[1]


def test_both_codings_are_counted(inspect: Callable[..., Any], folder: Path) -> None:
    # 36 codes of 4 values, as often each; 60 of 16 values, 12 of them four times and four of them three times.
    entropy = (12 * 4 * math.log2(60 / 4) + 4 * 3 * math.log2(60 / 3)) / 8
    saved = round(9 - 2 * 5 + entropy - 4 * 8)
    total = folder_bytes(folder)
    assert figures(inspect, folder)["bytes_by_coding"] == {"fixed": total, "entropy": total + 2 * saved}
    assert f"about {total + 2 * saved:,} bytes entropy-coded" in inspect(folder)[1]


def test_json_can_go_to_a_file(inspect: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    inspect(folder, "--json", tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text()) == figures(inspect, folder)


def test_verify_finds_a_damaged_weight_that_a_look_does_not(inspect: Callable[..., Any], folder: Path) -> None:
    assert figures(inspect, folder, "--verify")["verified"] is True
    payload = bytearray((folder / "mediant.safetensors").read_bytes())
    payload[-1] ^= 1
    (folder / "mediant.safetensors").write_bytes(payload)
    assert figures(inspect, folder)["verified"] is False
    code, out, err = inspect(folder, "--verify")
    assert (code, out) == (CheckpointError.exit_code, "")
    assert "is damaged" in err


def test_a_model_that_is_not_all_there_is_said_to_be_so(
    inspect: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "weights", property(lambda self: WEIGHTS + 1))
    model = Model(tmp_path, "m", "A", {}, tuple(PLANS), "ab" * 32)
    plan = Plan(model.fingerprint, "r", 0, {t.name: p for t, p in PLANS.items()})
    write(tmp_path / "out", model, plan, None, encodings(), {})
    code, out, err = inspect(tmp_path / "out")
    assert code == CheckpointError.exit_code
    assert "222 of 223 weights" in out
    assert "not the whole model" in err


def test_files_that_are_missing_or_foreign_are_named(inspect: Callable[..., Any], folder: Path) -> None:
    (folder / "README.md").unlink()
    (folder / "notes.txt").write_text("mine")
    code, out, _ = inspect(folder)
    assert code == 0
    assert "missing file: README.md" in out
    assert "not part of the checkpoint: notes.txt" in out


def test_what_is_no_checkpoint_gives_one_sentence(inspect: Callable[..., Any], tmp_path: Path) -> None:
    code, out, err = inspect(tmp_path)
    assert (code, out) == (CheckpointError.exit_code, "")
    assert "There is no file" in err.replace("\n", " ")
    assert inspect()[0] == UsageError.exit_code


def test_a_tensor_whose_name_looks_like_markup_is_shown_as_it_is(inspect: Callable[..., Any], tmp_path: Path) -> None:
    info = TensorInfo("[red]x[/blue]", (1,), "float32", "other")
    model = Model(tmp_path, "m", "A", {}, (info,), "f")
    plan = Plan("f", "r", 0, {info.name: Cast("float32")})
    write(
        tmp_path / "out", model, plan, None, [Encoding(info, plan.tensors[info.name], {"data": np.zeros(1, "f4")})], {}
    )
    _, out, _ = inspect(tmp_path / "out", "--tensors")
    assert out.count("[red]x[/blue]") == 2


def test_aliases_are_in_the_figures(inspect: Callable[..., Any], tmp_path: Path) -> None:
    info = dataclasses.replace(next(iter(PLANS)), aliases=("head.weight",))
    model = Model(tmp_path, "m", "A", {}, (info,), "f")
    encoding = dataclasses.replace(encodings()[0], info=info)
    write(tmp_path / "out", model, Plan("f", "r", 0, {info.name: QUANTIZED}), None, [encoding], {})
    assert figures(inspect, tmp_path / "out")["tensors"][0]["aliases"] == ["head.weight"]
