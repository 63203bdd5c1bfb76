"""A header whose numbers were spoilt is read, or refused with a sentence, and soon."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest

from mediant.errors import ModelError
from mediant.exporters.gguf import export
from mediant.models.gguf.file import GGUFFile
from mediant.models.gguf.network import network

WRONG = (0, -1, 10**9, 2**63, 1e308, float("nan"), "x", "", [], [1, 2], True)


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def file(request, tiny_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    export(str(tiny_folder(request.param)), path, "f32", check=False)
    return GGUFFile.open(path)


def test_every_number_spoilt_or_gone(file):
    numbers = [key for key in file.fields if key.startswith(f"{file.architecture}.")]
    assert numbers
    refused = 0
    for key in numbers:
        rest = {name: value for name, value in file.fields.items() if name != key}
        for fields in (rest, *({**rest, key: value} for value in WRONG)):
            with contextlib.suppress(ModelError):
                network(dataclasses.replace(file, fields=fields))
                continue
            refused += 1
    # Most numbers are tied to the sizes of tensors.
    assert refused > len(numbers) * len(WRONG) / 2


def test_more_layers_than_tensors(file):
    fields = {**file.fields, f"{file.architecture}.block_count": 10**9}
    with pytest.raises(ModelError, match="says 1000000000 layers, but the file holds"):
        network(dataclasses.replace(file, fields=fields))
