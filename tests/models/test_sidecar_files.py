"""Everything that belongs to a model travels; weights, other programs' files and leftovers do not."""

import json
import shutil
from fnmatch import fnmatch

import pytest
from transformers import AutoTokenizer

from mediant.exporters.huggingface import export
from mediant.models.card import model_card
from mediant.models.opening import open_model
from mediant.models.sidecar_files import (
    LARGEST,
    download_filter,
    parting_words,
    sidecar_files,
    staying,
    stays,
    travelling,
)

BELONGING = (
    "LICENSE", "LICENSE.txt", "NOTICE", "USE_POLICY.md", "1_Pooling/config.json", "additional_chat_templates/rag.jinja",
    "chat_template.jinja", "configuration_own.py", "own/layers.py", "generation_config.json", "modules.json",
    "preprocessor_config.json", "processor_config.json", "sentence_bert_config.json", "tokenizer.json", "vocab.json",
    "video_preprocessor_config.json", "config_sentence_transformers.json", "tekken.json", "2_Dense/model.safetensors",
)  # fmt: skip
STAYING = (
    "pytorch_model.bin", "onnx/model.onnx", "onnx/tokenizer.json", "openvino/openvino_model.xml", "tf_model.h5",
    "flax_model.msgpack", "original/params.json", "consolidated.safetensors", ".cache/huggingface/a.lock", "runs/x",
    "checkpoint-500/config.json", "optimizer.pt", "picture.png", "unet/model.safetensors", ".gitattributes",
)  # fmt: skip


@pytest.fixture
def laden(tiny_folder, tmp_path):
    """A tiny model with all that a folder on the hub may have beside weights."""
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "laden")
    # What is named like weights has to be some.
    for name in {*BELONGING, *STAYING} - {"vocab.json", "consolidated.safetensors", "pytorch_model.bin", "tf_model.h5"}:
        if not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")
    modules = [{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}, {"idx": 2, "path": "2_Dense"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


@pytest.mark.parametrize("name", BELONGING)
def test_what_belongs_to_a_model_travels(name):
    assert stays(name, 100, ["1_Pooling", "2_Dense"]) == ""


@pytest.mark.parametrize("name", STAYING)
def test_what_does_not_has_a_reason(name):
    assert stays(name, 100, ["1_Pooling", "2_Dense"])


def test_what_is_as_large_as_weights_stays():
    assert stays("table.json", LARGEST) == ""
    assert stays("table.json", LARGEST + 1) == "larger than 100 MB"


@pytest.mark.parametrize("name", [*BELONGING, *STAYING])
def test_the_download_agrees(name):
    assert any(fnmatch(name, pattern) for pattern in download_filter()) is (name in STAYING)


def test_weights_are_downloaded():
    for name in (
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "config.json",
    ):
        assert not any(fnmatch(name, pattern) for pattern in download_filter())


def test_a_laden_folder(laden, tmp_path):
    model = open_model(str(laden))
    export(str(laden), tmp_path / "out")
    written = {f.relative_to(tmp_path / "out").as_posix() for f in (tmp_path / "out").rglob("*") if f.is_file()}
    for found in (set(sidecar_files(model, "card")), set(travelling(laden)), written):
        assert set(BELONGING) - {"vocab.json"} <= found
        assert not set(STAYING) & found
    assert set(staying(laden)) == set(STAYING) - {
        "consolidated.safetensors",
        ".gitattributes",
        "pytorch_model.bin",
        "tf_model.h5",
    }
    assert "onnx/model.onnx (weights for another program)" in parting_words(laden)


def test_nothing_to_part_with(tiny_folder):
    assert parting_words(tiny_folder("llama")) is None


def test_vocabularies_stay_only_where_the_tokenizer_is_the_same_without(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "spare")
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    assert "vocab.json" not in travelling(folder)
    whole = shutil.copytree(folder, tmp_path / "whole")
    added = {**json.loads((folder / "tokenizer_config.json").read_text()), "tokenizer_class": "GPT2Tokenizer"}
    (whole / "tokenizer_config.json").write_text(json.dumps(added))
    (whole / "tokenizer.json").unlink()
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    (whole / "merges.txt").write_text("\n".join(m if isinstance(m, str) else " ".join(m) for m in merges))
    assert {"vocab.json", "merges.txt"} <= set(travelling(whole))
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, file in {**travelling(whole), "config.json": whole / "config.json"}.items():
        shutil.copyfile(file, copy / name)
    before, after = (AutoTokenizer.from_pretrained(place) for place in (whole, copy))
    assert type(before) is type(after)
    assert before("12 angry bees")["input_ids"] == after("12 angry bees")["input_ids"]


def test_the_licence_is_in_the_new_card(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: llama9\ntags: [a]\n---\n# Model\n")
    card = model_card(open_model(str(folder)), "default", 0, "text")
    assert "license: other\nlicense_name: llama9\nlibrary_name: mediant" in card
    (folder / "README.md").write_text("---\n: [\n---\n")
    assert "license:" not in model_card(open_model(str(folder)), "default", 0, "text")
