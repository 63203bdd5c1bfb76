import dataclasses
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from mediant import files
from mediant.checkpoint.writer import write
from mediant.cli import evaluate
from mediant.errors import ModelError, TextError, UsageError
from mediant.evaluation import scoring
from mediant.forms import Encoding
from mediant.forms.cast.form import Cast
from mediant.models.opening import open_model
from mediant.models.weights import WeightReader
from mediant.planning.plan import Plan
from mediant.values import Scorecard

Folder = Callable[[str], Path]
Run = Callable[..., int]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog and runs away . " * 30)
    return tmp_path / "text.txt"


@pytest.fixture
def shaken(tmp_path: Path, tiny_network: Callable, tokenizer: PreTrainedTokenizerFast) -> Folder:
    def folder(name: str) -> Path:
        network = tiny_network(name)
        generator = torch.Generator().manual_seed(1)
        for parameter in network.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
        network.save_pretrained(tmp_path / "shaken")
        tokenizer.save_pretrained(tmp_path / "shaken")
        return tmp_path / "shaken"

    return folder


def test_the_json_has_every_figure(run: Run, text: Path, tiny_folder: Folder, shaken: Folder) -> None:
    reference, candidate = tiny_folder("llama"), shaken("llama")
    size = files.folder_bytes(candidate)
    assert (
        run(candidate, "--reference", reference, "--text", text, "--windows", 3, "--window", 32, "--json", "o.json")
        == 0
    )
    data = json.loads(Path("o.json").read_text())
    assert {f.name for f in dataclasses.fields(Scorecard)} <= set(data)
    weights = open_model(str(reference)).weights
    assert (data["bytes"], data["bits_per_weight"]) == (size, 8 * size / weights)
    assert (data["windows"], data["window"], data["tokens"]) == (3, 32, 48)
    assert (data["candidate"], data["reference"], data["text_file"]) == (str(candidate), str(reference), str(text))
    assert data["kl"] > data["kl_se"] > 0
    assert data["kl"] == pytest.approx(sum(w["kl"] for w in data["per_window"]) / 3, rel=1e-12)
    assert data["peak_memory_bytes"] > 0
    assert sorted(p.name for p in Path().iterdir()) == ["o.json", "shaken", "text.txt"]


def test_standard_output_is_json_alone_or_a_table(
    run: Run, text: Path, tiny_folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_folder("llama")
    arguments = (folder, "--reference", folder, "--text", text, "--windows", 1, "--window", 16)
    assert run(*arguments, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["kl"] == 0
    assert run(*arguments) == 0
    shown = capsys.readouterr().out
    assert "0.0000 ± 0.0000 nats per token" in shown
    assert "bits per weight" in shown


def test_without_a_text_the_reference_writes_it(run: Run, tiny_folder: Folder) -> None:
    folder = tiny_folder("llama")
    assert run(folder, "--reference", folder, "--windows", 2, "--window", 16, "--seed", 4, "--json", "o.json") == 0
    data = json.loads(Path("o.json").read_text())
    assert (data["text"], data["text_file"], data["seed"]) == ("written by the reference, seed 4", None, 4)


def test_a_compressed_model_is_judged_by_all_its_files(run: Run, text: Path, tiny_folder: Folder) -> None:
    pytest.importorskip("mediant.runtime.loading")
    model = open_model(str(tiny_folder("llama_tied")))
    cast = Cast(dtype="float16")
    plan = Plan(model.fingerprint, "cast", 0, {t.name: cast for t in model.tensors})

    def encodings() -> Iterator[Encoding]:
        with WeightReader(model) as weights:
            for info in model.tensors:
                yield Encoding(info, cast, {"data": weights.read(info.name).astype("float16")})

    beside = {"config.json": (model.path / "config.json").read_bytes()}
    write(Path("compressed"), model, plan, None, encodings(), beside)
    assert (
        run("compressed", "--reference", model.path, "--text", text, "--windows", 2, "--window", 32, "--json", "o.json")
        == 0
    )
    data = json.loads(Path("o.json").read_text())
    assert data["bytes"] == files.folder_bytes(Path("compressed"))
    assert data["bits_per_weight"] == 8 * data["bytes"] / model.weights
    assert 0 < data["kl"] < 1e-3  # float16 weights


def test_a_converted_gguf_is_as_large_as_its_file(run: Run, text: Path, shaken: Folder, tiny_folder: Folder) -> None:
    candidate = shaken("llama")
    Path("model.gguf").write_bytes(b"GGUF" * 25)
    (candidate / "mediant-source.json").write_text(json.dumps({"name": "m", "file": str(Path("model.gguf").resolve())}))
    arguments = ("--text", text, "--windows", 1, "--window", 16, "--json", "o.json")
    assert run(candidate, "--reference", tiny_folder("llama"), *arguments) == 0
    assert json.loads(Path("o.json").read_text())["bytes"] == 100
    Path("model.gguf").unlink()
    assert run(candidate, "--reference", tiny_folder("llama"), *arguments) == 0
    assert json.loads(Path("o.json").read_text())["bytes"] == files.folder_bytes(candidate)


def test_an_encoder_has_a_cosine(run: Run, tiny_folder: Folder, shaken: Folder) -> None:
    assert run(shaken("bert"), "--reference", tiny_folder("bert"), "--windows", 3, "--json", "o.json") == 0
    data = json.loads(Path("o.json").read_text())
    assert 0 < data["cosine"] < 1
    assert {"cosine_se", "bytes", "bits_per_weight", "sentences", "text"} <= set(data)
    assert "kl" not in data


def test_mistakes_have_their_exit_codes(
    run: Run, text: Path, tiny_folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    llama, bert = tiny_folder("llama"), tiny_folder("bert")
    assert run(bert, "--reference", llama, "--text", text) == ModelError.exit_code
    assert "cannot be compared" in capsys.readouterr().err
    assert run("nowhere/at/all", "--reference", llama) == ModelError.exit_code
    assert run(llama, "--reference", llama, "--text", "missing.txt", "--window", 16) == TextError.exit_code
    assert run(llama, "--reference", llama, "--text", text, "--window", 64) == TextError.exit_code
    assert "--windows" in capsys.readouterr().err
    assert run(llama, "--reference", llama, "--text", text) == UsageError.exit_code  # 512 > 128 positions
    assert run(llama) == UsageError.exit_code
    assert run(llama, "--reference", llama, "--windows", 0) == UsageError.exit_code
    assert sorted(p.name for p in Path().iterdir()) == ["text.txt"]


def test_the_defaults_are_those_of_the_library() -> None:
    command, library = inspect.signature(evaluate.command), inspect.signature(scoring.evaluate)
    for name in ("text", "windows", "window", "seed"):
        assert command.parameters[name].default == library.parameters[name].default
