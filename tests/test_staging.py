from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mediant.staging import staged


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(scope="module")
def dead() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def replace(folder: Path, content: str) -> None:
    with staged(folder) as staging:
        assert not (folder / "file").exists() or (folder / "file").read_text() != content
        (staging / "file").write_text(content)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_folder_appears_when_all_is_done_and_nothing_else_stays(out: Path) -> None:
    for content in ("first", "second"):
        replace(out, content)
        assert (out / "file").read_text() == content
        assert names(out.parent) == ["out"]


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, "first"])
def test_after_any_exception_everything_is_as_before(out: Path, problem: type, before: str | None) -> None:
    if before is not None:
        replace(out, before)

    def fail() -> None:
        with staged(out) as staging:
            (staging / "file").write_text("second")
            raise problem

    with pytest.raises(problem):
        fail()
    assert names(out.parent) == ([] if before is None else ["out"])
    assert before is None or (out / "file").read_text() == before


def test_what_a_killed_process_left_is_removed_and_the_rest_is_not(out: Path, dead: int) -> None:
    kept = (
        f".out.{os.getppid()}.tmp",
        f".other.{dead}.tmp",
        ".out.x.tmp",
        ".out.tmp",
        f".out.{dead}.txt",
        ".out.².tmp",
    )
    for name in (*kept, f".out.{dead}.tmp", f".out.{os.getpid()}.tmp", f".out.{10**30}.tmp"):
        (out.parent / name).mkdir()
        (out.parent / name / "file").write_text("half")
    replace(out, "whole")
    assert names(out.parent) == sorted(("out", *kept))


def test_what_a_killed_process_put_aside_is_removed_once_something_took_its_place(out: Path, dead: int) -> None:
    aside = out.with_name(f".out.{dead}.old")
    aside.mkdir()
    replace(out, "first")
    assert aside.exists()
    replace(out, "second")
    assert not aside.exists()
