"""`mediant analyze` on tiny models: JSON, tables that fit, choice of tensors, calibration, bad input."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from mediant.cli._analysis_tables import NARROW, WIDTH, short_name, show
from mediant.discovery import make
from mediant.errors import ModelError, TextError, UsageError
from mediant.models.opening import open_model
from mediant.statistics.analysis import Analysis, by_kind
from mediant.statistics.analysis import analyze as analyze_model
from mediant.values import Statistics

Folder = Callable[[str], Path]
Run = Callable[..., int]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog and runs away . " * 90)
    return tmp_path / "text.txt"


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_the_json_has_every_tensor_and_every_figure(run: Run, tiny_folder: Folder) -> None:
    model = open_model(str(tiny_folder("llama")))
    assert run(model.path, "--json", "o.json") == 0
    data = json.loads(Path("o.json").read_text(), parse_constant=refuse)
    assert (data["weights"], data["fingerprint"], data["calibration"]) == (model.weights, model.fingerprint, None)
    assert [t["name"] for t in data["tensors"]] == [t.name for t in model.tensors]
    for tensor in data["tensors"]:
        wanted = {"shape", "minimum", "maximum", "mean", "std", "kurtosis", "outliers", "zeros_share"}
        assert wanted <= {k for k, v in tensor.items() if v is not None}
        families = [f["family"] for f in tensor["families"]["fits"]]
        assert sorted(families) == ["gaussian", "laplace", "student_t", "uniform"]
        assert tensor["family"] == families[0]
        if tensor["layout"] != "none":
            spectrum = tensor["spectrum"]
            assert len(spectrum["singular_values"]) == min(tensor["shape"])
            assert all(v is not None for v in spectrum.values())
    assert sorted(t["name"] for t in data["targets"]) == sorted(t.name for t in model.tensors)
    assert all(t["reason"].endswith(("first", "next", "last", "keep")) for t in data["targets"])
    assert sorted(p.name for p in Path().iterdir()) == ["o.json"]


def test_standard_output_is_json_alone_or_tables(
    run: Run, tiny_folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_folder("llama"), "--no-spectrum", "--json", "-") == 0
    captured = capsys.readouterr()
    assert all(t["spectrum"] is None for t in json.loads(captured.out)["tensors"])
    assert "Order of targets" in captured.err
    assert run(tiny_folder("llama")) == 0
    shown = capsys.readouterr().out
    assert [shown.index(title) for title in ("Kinds", "Values", "Matrices", "Order of targets")] == sorted(
        shown.index(title) for title in ("Kinds", "Values", "Matrices", "Order of targets")
    )


def test_a_text_file_gives_sensitivities(run: Run, text: Path, tiny_folder: Folder) -> None:
    assert run(tiny_folder("llama"), "--calibration", text, "--json", "o.json") == 0
    data = json.loads(Path("o.json").read_text())
    assert data["calibration"]["source"] == "file text.txt"
    linear = [t for t in data["tensors"] if t["role"] == "linear"]
    assert all(t["sensitivity"]["fisher"] > 0 and t["loss"] > 0 for t in linear)
    assert all(t["sensitivity"] is None for t in data["tensors"] if t["role"] == "norm")


def test_without_a_text_calibration_needs_none(run: Run, tiny_folder: Folder) -> None:
    assert run(tiny_folder("bert"), "--calibrate", "--json", "o.json") == 0
    data = json.loads(Path("o.json").read_text())
    assert data["calibration"]["tokens"] > 0
    assert any(t["sensitivity"] for t in data["tensors"])


def test_the_same_seed_gives_the_same_json(run: Run, tiny_folder: Folder) -> None:
    for name, seed in (("a", 1), ("b", 1)):
        assert run(tiny_folder("llama"), "--seed", seed, "--json", f"{name}.json") == 0
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()


def test_a_pattern_chooses_tensors_by_any_of_their_names(run: Run, tiny_folder: Folder) -> None:
    folder = tiny_folder("llama_tied")
    for pattern, expected in (("*.mlp.*", 6), ("lm_head.weight", 1), ("model.norm.weight", 1)):
        assert run(folder, "--tensors", pattern, "--json", "o.json") == 0
        assert len(json.loads(Path("o.json").read_text())["tensors"]) == expected


def one_sentence(shown: str) -> str:
    """What follows `mediant:`, when nothing but a line of progress comes before it."""
    before, found, sentence = " ".join(shown.split()).partition("mediant: ")
    assert found
    assert "Traceback" not in before + sentence
    assert sentence.endswith(".")
    return sentence


def test_bad_input_is_one_sentence(
    run: Run, tiny_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        ((tiny_folder("llama"), "--tensors", "*.conv.*"), UsageError, "'*.conv.*'"),
        ((tmp_path / "nowhere",), ModelError, "nowhere"),
        ((tiny_folder("llama"), "--calibration", tmp_path / "none.txt"), TextError, "none.txt"),
    ]
    for arguments, error, word in cases:
        assert run(*arguments, "--no-spectrum") == error.exit_code
        assert word in one_sentence(capsys.readouterr().err)


def test_weights_that_are_not_finite_are_refused(
    run: Run,
    tiny_network: Callable,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    network = tiny_network("llama")
    with torch.no_grad():
        network.model.norm.weight[3] = float("nan")
    network.save_pretrained(tmp_path / "nan")
    tokenizer.save_pretrained(tmp_path / "nan")
    assert run(tmp_path / "nan", "--json", "o.json") == ModelError.exit_code
    assert "model.norm.weight" in one_sentence(capsys.readouterr().err)
    assert not Path("o.json").exists()


def lines(analysis: Analysis, folder: Path, statistics: Statistics | None, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    show(console, open_model(str(folder)), analysis, statistics)
    return console.file.getvalue().splitlines()


def test_tables_fit_into_100_columns_and_a_file_loses_nothing(architecture: str, tiny_folder: Folder) -> None:
    folder = tiny_folder(architecture)
    model = open_model(str(folder))
    analysis = analyze_model(model)
    shown = lines(analysis, folder, None, WIDTH)
    assert max(map(len, shown)) <= WIDTH
    assert not any("…" in line for line in shown)
    assert shown == lines(analysis, folder, None, 60)
    text = "\n".join(shown)
    assert all(short_name(t.name) in text for t in model.tensors)


def test_kinds_are_those_of_the_tensors(tiny_folder: Folder) -> None:
    analysis = analyze_model(open_model(str(tiny_folder("bert"))), spectra=False)
    assert by_kind(analysis.tensors) == analysis.kinds
    assert {k.role for k in analysis.kinds} == {"linear", "embedding", "bias", "norm"}


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("model.layers.11.self_attn.q_proj.weight", "m.layers.11.self_attn.q_proj"),
        ("model.layers.1.self_attn.q_proj.bias", "m.l.1.self_attn.q_proj.bias"),
        ("model.norm.weight", "model.norm"),
        ("weight", "weight"),
    ],
)
def test_names_are_cut_from_the_left(name: str, short: str) -> None:
    assert short_name(name, NARROW) == short


def test_attention_of_every_layer(
    run: Run, tiny_folder: Folder, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (tiny_folder("mistral"), "--no-spectrum", "--tensors", "*norm*", "--calibration", text)
    assert run(*arguments, "--attention", "16", "--json", "-") == 0
    captured = capsys.readouterr()
    reaches = json.loads(captured.out)["attention"]
    assert [reach["layer"] for reach in reaches] == [0, 1]
    assert all(reach["beyond"] == 0 for reach in reaches)
    # What the table suggests is an edit that a plan takes.
    edit = captured.err.split("In a plan's structure: ")[1].splitlines()[0]
    assert json.loads(edit)["layers"] == [0, 1]
    assert make("structure", {"name": "attention", "pattern": json.loads(edit)["pattern"], "layers": [0, 1]})
