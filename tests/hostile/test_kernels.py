"""A short run of the fuzzer of packed matrices, and all their kernels under the sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from tests.hostile.fuzz_kernels import fuzz

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "src/mediant/kernels/native"
# All but the decoder, which has tests of its own, and the set that few processors have.
SOURCES = sorted(file for file in NATIVE.glob("*.cpp") if "avx512" not in file.name)


def test_random_arguments_for_a_second():
    counts = fuzz(1.0, 1)
    assert counts.keys() <= {"refused", "multiplied"}
    assert counts.get("multiplied")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_sanitizers_find_nothing(tmp_path):
    """The kernels and their tests under the address and undefined-behaviour sanitizers, any finding fatal."""
    nanobind = pytest.importorskip("nanobind")
    root = Path(nanobind.__file__).parent
    includes = [root / "include", root / "ext/robin_map/include", sysconfig.get_paths()["include"]]
    objects = []
    for source in [*SOURCES, root / "src/nb_combined.cpp"]:
        first = source.read_text(encoding="utf-8").partition("\n")[0]
        flags = first.partition(" flags: ")[2].split()
        # The body is the same for all instruction sets; checks of undefined behaviour in one are enough, and compiling
        # them into intrinsics takes many minutes.
        checks = "address" if flags else "address,undefined"
        objects.append(str(tmp_path / f"{source.stem}.o"))
        subprocess.run(
            ["g++", "-std=c++20", "-O1", "-g1", "-c", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing",
             f"-fsanitize={checks}", "-fno-sanitize-recover=all", *flags, *(f"-I{i}" for i in includes),
             str(source), "-o", objects[-1]],
            check=True,
        )  # fmt: skip
    package = tmp_path / "mediant"
    shutil.copytree(ROOT / "src/mediant", package, ignore=shutil.ignore_patterns("*.so", "__pycache__", "native"))
    module = package / f"kernels/_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(["g++", "-shared", "-fsanitize=address,undefined", *objects, "-o", str(module)], check=True)
    runtime = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(runtime),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT), sysconfig.get_path("purelib")]),
    }

    def run(*arguments: str) -> str:
        done = subprocess.run(
            # Without `site`, as an editable installation would put itself before this module, and nothing be checked.
            [sys.executable, "-S", *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout

    assert run("-c", "import mediant.kernels._native as n; print(n.__file__)").strip() == str(module)
    assert "multiplied" in run(str(ROOT / "tests/hostile/fuzz_kernels.py"), "--seconds", "20")
    run(
        "-m",
        "pytest",
        "-q",
        "-m",
        "not slow",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        str(ROOT / "tests/kernels"),
        f"--ignore={ROOT / 'tests/kernels/test_block_sparse.py'}",
    )
