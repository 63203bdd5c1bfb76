"""One run at a time writes an output, whatever becomes of the run before."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import filelock
import pytest

from mediant import files
from mediant.claims import claimed
from mediant.errors import StorageError
from mediant.progress import Silent

HOLDS = """
import sys
from pathlib import Path
from mediant.claims import claimed

with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


class Listener(Silent):
    def __init__(self) -> None:
        self.heard: list[str] = []
        self.spoken = threading.Event()

    def say(self, text: str) -> None:
        self.heard.append(text)
        self.spoken.set()


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds the claim to `out`; a line to it makes it end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_without_waiting_the_second_is_told_who_holds_it(tmp_path: Path, holder: subprocess.Popen) -> None:
    told = rf"Process {holder.pid} on .* is writing .*out; without --no-wait"
    with pytest.raises(StorageError, match=told), claimed(tmp_path / "out", wait=False):
        raise AssertionError


def test_the_second_waits_and_nothing_is_left_over(tmp_path: Path, holder: subprocess.Popen) -> None:
    listener = Listener()

    def end_it() -> None:
        listener.spoken.wait()
        holder.communicate("\n")

    thread = threading.Thread(target=end_it)
    thread.start()
    with claimed(tmp_path / "out", listener):
        assert holder.wait() == 0
    thread.join()
    assert [str(holder.pid) in line for line in listener.heard] == [True]
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_holds_nothing(tmp_path: Path, holder: subprocess.Popen) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with claimed(tmp_path / "out", wait=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_never_two_at_once_even_where_folders_come_and_go(tmp_path: Path) -> None:
    inside, most = [], []

    def run() -> None:
        for _ in range(10):
            with claimed(tmp_path / "a" / "b" / "out"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 40
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_a_folder_that_goes_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pathlib raises where another run removes the folder between its two looks."""
    made, failures = Path.mkdir, iter([FileExistsError, FileNotFoundError])

    def mkdir(self: Path, *arguments: object, **options: object) -> None:
        if (failure := next(failures, None)) is not None:
            raise failure(self)
        made(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with claimed(tmp_path / "a" / "out"):
        assert (tmp_path / "a").is_dir()


def test_a_failure_inside_lets_go_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claimed(tmp_path / "new" / "out"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["file/out", "loop/out", f"{'x' * 300}/out", "/proc/none/out"])
def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StorageError, match="Cannot write"), claimed(tmp_path / place):
        raise AssertionError
    with pytest.raises(StorageError, match="Cannot write"):
        files.check_writable(tmp_path / place)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_disk_that_is_too_full_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2 * 10**6))
    with claimed(tmp_path / "out", needed=2 * 10**6):
        pass
    told = "needs about 3 MB there, and 2 MB are free"
    with pytest.raises(StorageError, match=told), claimed(tmp_path / "out", needed=3 * 10**6):
        raise AssertionError


@pytest.mark.parametrize("problem", [OSError(errno.ENOLCK, "no locks"), NotImplementedError("no flock")])
def test_without_locks_the_work_goes_on_after_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    listener = Listener()
    with claimed(tmp_path / "out", listener):
        pass
    assert len(listener.heard) == 1
    assert "has no locks" in listener.heard[0]


def test_what_only_saves_time_may_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not files.keep(tmp_path / "file" / "text", b"1")
    assert files.keep(tmp_path / "text", b"1")


def test_a_refusal_in_the_cache_names_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIANT_CACHE", "/proc/none")
    with pytest.raises(StorageError, match="MEDIANT_CACHE"):
        files.write(files.cache_folder() / "models" / "one", b"")
