"""What lies in place of a model's files when a download went wrong is named, in every command's first step."""

import shutil

import pytest

from mediant.checkpoint.reader import open_checkpoint
from mediant.errors import CheckpointError, ModelError
from mediant.models import impostors
from mediant.models.opening import open_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 538090408\n"
PAGE = b"\n<!DOCTYPE html><html><head><title>404</title></head></html>"
BUCKET = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code></Error>'
REFUSAL = b'{"error":"Repository not found"}'


@pytest.fixture
def copy(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder("llama"), tmp_path / "copy")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
)
def test_a_pointer_in_place_of_any_file(copy, name):
    (copy / name).write_bytes(POINTER)
    with pytest.raises(ModelError, match=rf"{name} is a Git LFS pointer to 538090408 bytes .* run 'git lfs pull'"):
        open_model(str(copy))


@pytest.mark.parametrize("data", [PAGE, BUCKET, b"\xef\xbb\xbf" + PAGE])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_page_in_place_of_a_file(copy, name, data):
    (copy / name).write_bytes(data)
    with pytest.raises(ModelError, match=rf"{name} is a web page.*; download it again\.$"):
        open_model(str(copy))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (REFUSAL, "is a text in JSON"),
        (b"PK\3\4" + bytes(90), "is a zip archive or a pickle"),
        (b"GGUF" + bytes(90), "is a GGUF file under another name"),
        (b"\x80\x02}", "is a pickle"),
    ],
)
def test_something_else_in_place_of_weights(copy, data, said):
    (copy / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match=f"model.safetensors {said}"):
        open_model(str(copy))


@pytest.mark.parametrize("data", [POINTER, PAGE, BUCKET, REFUSAL, b""])
def test_something_else_in_place_of_a_gguf_file(tmp_path, data):
    (tmp_path / "model.gguf").write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.gguf is (a Git LFS pointer|a web page|a text in JSON|empty)"):
        open_model(str(tmp_path / "model.gguf"))


def test_a_shard_that_is_a_pointer(copy, tiny_network):
    (copy / "model.safetensors").unlink()
    tiny_network("llama").save_pretrained(copy, max_shard_size="20KB")
    shard = sorted(copy.glob("model-*.safetensors"))[1]
    shard.write_bytes(POINTER)
    with pytest.raises(ModelError, match=f"{shard.name} is a Git LFS pointer"):
        open_model(str(copy))


@pytest.mark.parametrize("keep", [7, 8, 500, -1, -4000])
def test_half_a_download(copy, keep):
    file = copy / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:keep])
    with pytest.raises(ModelError, match=rf"(ends within its header|of its {len(whole)} bytes).*download it again\.$"):
        open_model(str(copy))


def test_a_compressed_model_that_was_not_fetched(tmp_path):
    for name in ("mediant.json", "mediant.safetensors"):
        (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=r"mediant\.json is a Git LFS pointer"):
        open_checkpoint(tmp_path)


def test_good_files_pass(tiny_folder, architecture):
    for file in tiny_folder(architecture).iterdir():
        impostors.check(file)
    impostors.check_length(tiny_folder(architecture) / "model.safetensors")


def test_texts_may_be_empty_or_begin_with_anything(tmp_path):
    for name, data in (("requirements.txt", b""), ("chat_template.jinja", b"{% if a %}"), ("vocab.txt", b"<html>")):
        (tmp_path / name).write_bytes(data)
        impostors.check(tmp_path / name)
