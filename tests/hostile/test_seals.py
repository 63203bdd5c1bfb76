"""A seal that was tampered with is no seal: the tokenizer is then read as that of any model."""

from __future__ import annotations

import json
import shutil

import pytest

from mediant.models import tokenizer
from mediant.models.configuration import METHOD, SEAL
from mediant.models.folder import read_config

TEXT = "the quick brown fox"


@pytest.mark.parametrize("field", ["special", "clean_up"])
@pytest.mark.parametrize("wrong", [None, 1, "x", [1], {"eos_token": 7}, "removed"])
def test_a_field_of_the_wrong_kind(field, wrong, tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "model")
    config = read_config(folder)
    plain = tokenizer.open_tokenizer(folder)
    seal = tokenizer.seal(folder, config, {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()})
    assert seal is not None
    seal[field] = wrong
    if wrong == "removed":
        del seal[field]
    (folder / "config.json").write_text(json.dumps({**config, METHOD: {SEAL: {"tokenizer": seal}}}))
    found = tokenizer.open_tokenizer(folder)
    assert found.encode(TEXT) == plain.encode(TEXT)
    assert found.settings == plain.settings
