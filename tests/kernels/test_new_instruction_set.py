"""An instruction set is one new file: a toy one is built, found by its name, and multiplies as the reference does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
NATIVE = Path("src/mediant/kernels/native")
# The portable lanes under another name, of the lowest rank, so only taken by name; a `scale` other than 1 spoils it.
CHANGES = {"MEDIANT_TILES(portable, 0)": "MEDIANT_TILES(toy, -1)", "return at[i];": "return {scale} * at[i];"}
PROGRAM = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("mediant.kernels._native", sys.argv[1])
sys.modules["mediant.kernels._native"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert module.instruction_sets()[-1] == "toy" != module.instruction_set(), module.instruction_sets()
assert module.force_instruction_set("toy") and module.instruction_set() == "toy"
import pytest
sys.exit(pytest.main(["-q", "-n0", "-p", "no:cacheprovider", "-k", "toy", sys.argv[2]]))
"""


@pytest.fixture(scope="module", params=["1.0f", "1.5f"])
def built(request, tmp_path_factory):
    """The path of the native kernels with the toy, right or spoilt, and whether it is right."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, copy)
    shutil.copytree(PROJECT / "src", copy / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    toy = (copy / NATIVE / "tiles_portable.cpp").read_text(encoding="utf-8")
    for old, new in CHANGES.items():
        assert toy.count(old) == 1
        toy = toy.replace(old, new.format(scale=request.param))
    (copy / NATIVE / "tiles_toy.cpp").write_text(toy, encoding="utf-8")
    into = copy / "installed"
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(into), str(copy)]
    subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True)
    return next(into.glob("mediant/kernels/_native*")), request.param == "1.0f"


@pytest.mark.slow
def test_an_instruction_set_is_one_file(built):
    library, right = built
    command = [sys.executable, "-c", PROGRAM, str(library), str(PROJECT / "tests/kernels/test_packed_matrix.py")]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    assert ran.returncode == (0 if right else 1), ran.stdout + ran.stderr  # pytest's codes; 5 where none has the name
