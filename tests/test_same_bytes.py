"""The comparison of two source trees, and that it can fail."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from tests.first_difference import first_difference
from tests.same_bytes import TreeFinder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def outputs(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal folders of outputs."""
    for which in ("old", "new"):
        (tmp_path / which / "out").mkdir(parents=True)
        weights = {"w.codes": np.arange(20, dtype=np.uint8), "w.scales": np.arange(3, dtype=np.float16)}
        (tmp_path / which / "out/mediant.safetensors").write_bytes(save(weights))
        (tmp_path / which / "out/mediant.json").write_text('{"method": "lattice", "lattice-2": ["a lattice"]}')
    return tmp_path / "old", tmp_path / "new"


def test_every_flipped_byte_is_seen_and_told(outputs):
    old, new = outputs
    assert first_difference(old, new, {}) is None
    for file in ("mediant.safetensors", "mediant.json"):
        whole = (new / "out" / file).read_bytes()
        for place in range(len(whole)):
            damaged = bytearray(whole)
            damaged[place] ^= 1
            (new / "out" / file).write_bytes(damaged)
            assert f"out/{file}: byte {place}" in first_difference(old, new, {})
        (new / "out" / file).write_bytes(whole)


def test_the_part_that_differs_is_named(outputs):
    old, new = outputs
    whole = bytearray((new / "out/mediant.safetensors").read_bytes())
    whole[-1] ^= 1
    (new / "out/mediant.safetensors").write_bytes(whole)
    assert first_difference(old, new, {}).endswith(("in w.codes, byte 19", "in w.scales, byte 5"))


@pytest.mark.parametrize("which", [0, 1])
def test_a_file_on_one_side_is_a_difference(which, outputs):
    (outputs[which] / "out/README.md").write_text("more")
    assert "out/README.md is only in the " + ("old", "new")[which] in first_difference(*outputs, {})


def test_only_stated_words_may_be_renamed(outputs):
    old, new = outputs
    renamed = {"method": "entropy_coded", "lattice-2": ["a entropy_coded"]}
    (new / "out/mediant.json").write_text(json.dumps(renamed, separators=(",", ":")))
    assert first_difference(old, new, {"lattice": "entropy_coded"}) is None
    assert first_difference(old, new, {"lattice": "coded"}) is not None
    assert first_difference(old, new, {"other": "word"}) is not None
    whole = bytearray((new / "out/mediant.safetensors").read_bytes())
    whole[-1] ^= 1
    (new / "out/mediant.safetensors").write_bytes(whole)
    assert first_difference(old, new, {"lattice": "entropy_coded"}) is not None


def test_modules_come_from_the_tree_that_was_named(tmp_path):
    (tmp_path / "src/mediant/kernels").mkdir(parents=True)
    for name in ("mediant/__init__", "mediant/kernels/__init__", "mediant/files"):
        (tmp_path / "src" / f"{name}.py").write_text("")
    native = tmp_path / "elsewhere" / "_native.py"
    native.parent.mkdir()
    native.write_text("")
    finder = TreeFinder(tmp_path, str(native))
    assert finder.find_spec("mediant.files", None).origin == str(tmp_path / "src/mediant/files.py")
    assert finder.find_spec("mediant.kernels._native", None).origin == str(native)
    assert finder.find_spec("mediant.values", None) is None
    assert finder.find_spec("json", None) is None


@pytest.mark.slow
def test_a_tree_that_rounds_otherwise_is_found_out(tmp_path):
    shutil.copytree(ROOT / "src", tmp_path / "src")
    changed = tmp_path / "src/mediant/methods/scales/absmax.py"
    text = changed.read_text(encoding="utf-8")
    assert "/ inner_end(levels)" in text
    changed.write_text(text.replace("/ inner_end(levels)", "* 0.999 / inner_end(levels)"), encoding="utf-8")
    for new, code in ((ROOT, 0), (tmp_path, 1)):
        command = [sys.executable, ROOT / "tests/same_bytes.py", ROOT, new, "--models", "llama", "--recipes", "rtn"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == code, result.stderr
        assert ("rtn: out/mediant." in result.stdout) == (code == 1)
