"""Files of an earlier day: they are read as they were then, and what is in them is written as it was then."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.checkpoint.stranger import Stranger
from tests.frozen.freeze import HASHES, PLANS, weight_hashes

from mediant.checkpoint import manifest
from mediant.checkpoint.reader import open_checkpoint
from mediant.checkpoint.writer import write
from mediant.values import Model

HERE = Path(__file__).parent
FILES = ("mediant.json", "mediant.safetensors")


def test_every_form_is_frozen():
    assert set(json.loads(HASHES.read_text(encoding="utf-8"))) == set(PLANS)


@pytest.mark.parametrize("name", PLANS)
def test_the_weights_are_those_of_that_day(name):
    assert weight_hashes(HERE / name) == json.loads(HASHES.read_text(encoding="utf-8"))[name]


@pytest.mark.parametrize("name", PLANS)
def test_a_stranger_reads_them_too(name):
    stranger = Stranger(HERE / name)
    for tensor, weight in open_checkpoint(HERE / name).state():
        np.testing.assert_array_equal(weight.ravel(), np.float32(stranger.weights(tensor)))


@pytest.mark.parametrize("name", PLANS)
def test_the_same_encodings_are_written_to_the_same_bytes(name, tmp_path, monkeypatch):
    old = open_checkpoint(HERE / name)
    origin, entries = old.model, old.tensors
    monkeypatch.setattr(manifest, "installed_version", lambda: old.manifest.tool_version)
    infos = tuple(entry.info for entry in entries.values())
    model = Model(HERE, origin.name, origin.architecture, {}, infos, origin.fingerprint)
    sides = {tensor: entry.side for tensor, entry in entries.items() if entry.side is not None}
    encodings = map(old.encoding, entries)
    write(tmp_path / "again", model, old.plan, old.manifest.calibration, encodings, {}, sides)
    for file in FILES:
        assert (tmp_path / "again" / file).read_bytes() == (HERE / name / file).read_bytes()


def test_a_reader_that_decodes_otherwise_would_be_found_out(tmp_path):
    shutil.copytree(HERE / "quantize-rows", tmp_path / "changed")
    text = (HERE / "quantize-rows" / FILES[0]).read_text(encoding="utf-8")
    stored = (HERE / "quantize-rows" / FILES[1]).read_bytes()
    changed = text.replace('"seed":12345', '"seed":12346')
    hashes = [hashlib.sha256(content.encode()).hexdigest().encode() for content in (text, changed)]
    (tmp_path / "changed" / FILES[0]).write_text(changed, encoding="utf-8")
    (tmp_path / "changed" / FILES[1]).write_bytes(stored.replace(*hashes))
    before, after = weight_hashes(HERE / "quantize-rows"), weight_hashes(tmp_path / "changed")
    assert {name for name in before if before[name] != after[name]} == {"w2"}
