"""The format description against the code: its example, its constants, and a reader written from it alone."""

from __future__ import annotations

import hashlib
import itertools
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.checkpoint.stranger import PAGE, POWERS, Stranger

from mediant.checkpoint import manifest
from mediant.checkpoint.reader import open_checkpoint
from mediant.checkpoint.writer import write
from mediant.forms.quantize.form import Quantize
from mediant.forms.quantize.grid_info import GridInfo
from mediant.values import Model

Sample = Any


def test_a_stranger_reads_the_same_weights(sample_checkpoint: Sample) -> None:
    stranger = Stranger(sample_checkpoint.folder)
    for name, weight in open_checkpoint(sample_checkpoint.folder).state():
        np.testing.assert_array_equal(weight.ravel(), np.float32(stranger.weights(name)))


def test_the_constants_are_the_nearest_float32() -> None:
    assert len(POWERS) == 8
    for j, power in enumerate(POWERS):
        # All but 1 lie between 1/2 and 1, where float32 numbers are 2^-24 apart.
        low, high = Fraction(power) - Fraction(1, 1 << 25), Fraction(power) + Fraction(1, 1 << 25)
        assert low**8 < Fraction(1, 1 << j) < high**8


def blocks(language: str) -> list[str]:
    example = PAGE[PAGE.index("## Example") :]
    return re.findall(rf"```{language}\n(.*?)\n```", example, re.DOTALL)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The folder that the example describes."""
    text, header = blocks("json")
    (length,) = re.findall(r"(\d+) bytes with the spaces", PAGE)
    data = b"".join(bytes.fromhex(line[:12].strip()) for line in blocks("text")[0].splitlines())
    assert len(data) == 11
    (tmp_path / "mediant.json").write_text(text + "\n", encoding="utf-8")
    padded = header.encode().ljust(int(length))
    (tmp_path / "mediant.safetensors").write_bytes(int(length).to_bytes(8, "little") + padded + data)
    return tmp_path


def test_the_example_decodes_as_it_says(example: Path) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| weights |")]
    stated = np.float32([float(x.replace("−", "-")) for x in re.findall(r"[−\d.]+", row)]).reshape(2, 3)
    weight = open_checkpoint(example).weight("w")
    np.testing.assert_array_equal(weight.view(np.uint32), stated.view(np.uint32))
    np.testing.assert_array_equal(Stranger(example).weights("w"), stated.ravel())


def test_the_writer_gives_the_bytes_of_the_example(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = open_checkpoint(example)
    monkeypatch.setattr(manifest, "installed_version", lambda: read.manifest.tool_version)
    monkeypatch.setattr(Quantize, "side", lambda plan, info: GridInfo(first={1: -0.5, 2: -1.5}))
    origin = read.model
    model = Model(example, origin.name, origin.architecture, {}, (read.tensors["w"].info,), origin.fingerprint)
    write(tmp_path / "again", model, read.plan, read.manifest.calibration, [read.encoding("w")], {})
    for name in ("mediant.json", "mediant.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (example / name).read_bytes()


def test_every_hash_is_of_the_bytes_it_is_said_to_be_of(sample_checkpoint: Sample) -> None:
    stranger = Stranger(sample_checkpoint.folder)
    text = (sample_checkpoint.folder / "mediant.json").read_bytes()
    assert stranger.header["__metadata__"]["manifest_sha256"] == hashlib.sha256(text).hexdigest()
    for name, entry in stranger.manifest["tensors"].items():
        for part, stored in entry["parts"].items():
            assert stored["sha256"] == hashlib.sha256(stranger.bytes_of(name, part)).hexdigest()


def test_every_field_of_a_manifest_is_described(sample_checkpoint: Sample) -> None:
    text = Stranger(sample_checkpoint.folder).manifest
    described = set(re.findall(r"`([a-z0-9_]+)[`:]", PAGE))
    entries = text["tensors"].values()
    fields = set(text) | set(text["model"]) | set(text["calibration"])
    fields = fields.union(*entries, *(e["plan"] for e in entries), *(e["certificate"] for e in entries))
    assert fields - described - {"kind"} == set()
    parts = {part.partition(".")[0] for entry in entries for part in entry["parts"]}
    assert parts - described == {"levels"}
    assert {e["layout"] for e in entries} <= described


def test_the_sample_has_everything_that_the_page_describes(sample_checkpoint: Sample) -> None:
    entries = Stranger(sample_checkpoint.folder).manifest["tensors"].values()
    plans = [e["plan"] for e in entries]
    assert {p["method"] for p in plans} == set(re.findall("^# Method `([a-z_]+)`", PAGE, re.MULTILINE))
    assert {p.get("storage", "rows") for p in plans} == {"rows", "tiles", "nested"}
    assert {p["basis"]["name"] for p in plans if "basis" in p} == {"rotation", "columns"}
    assert {e["grid"].get("kind", "several") for e in entries if "grid" in e} == {
        "affine", "table", "zero_point", "several",
    }  # fmt: skip
    kinds = itertools.product(("mask", "ordered", "combinations", "blocks"), (True, False))
    assert {(e["positions"]["kind"], "grid" in e) for e in entries if "positions" in e} == set(kinds)
    pairs = [e for e in entries if e["parts"].get("levels.2", {}).get("shape") == [32]]
    assert {e["plan"].get("storage", "rows") for e in pairs} == {"rows", "tiles"}
    assert {"rotation", "none"} == {e["plan"].get("basis", {}).get("name", "none") for e in pairs}
    assert {"columns", "none"} == {p.get("basis", {}).get("name", "none") for p in plans if "outliers" in p}
