"""Text comes out whatever standard output is: any encoding, a pipe that closes, a full disk, nothing at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

WRITES = """
import sys, typer
from mediant.cli import _console

app = typer.Typer()

@app.command()
def write(many: int = 1, json: _console.JsonOption = None):
    _console.write_json(json, {"text": "caf\\xe9 \\u4f60\\u597d \\udcff"})
    for _ in range(many):
        _console.table_console(json).print("caf\\xe9 \\u4f60\\u597d \\udcff \\u2014 done")
    _console.stderr.print("said \\u4f60 \\udcff")

raise SystemExit(_console.run(app))
"""


def run(*arguments: str, encoding: str = "utf-8", **streams) -> subprocess.CompletedProcess:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    return subprocess.run([sys.executable, "-c", WRITES, *arguments], env=environment, timeout=60, **streams)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16"])
def test_what_an_encoding_lacks_is_replaced(encoding):
    done = run(encoding=encoding)
    assert done.returncode == 0
    text = done.stdout.decode(encoding)
    assert text.startswith("café" if encoding != "ascii" else "caf?")
    assert "done" in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_json_loses_nothing(encoding):
    done = run("--json", "-", encoding=encoding)
    assert json.loads(done.stdout.decode(encoding)) == {"text": "café 你好 \udcff"}


def test_json_in_a_file_loses_nothing(tmp_path):
    assert run("--json", str(tmp_path / "f.json")).returncode == 0
    assert json.loads((tmp_path / "f.json").read_bytes()) == {"text": "café 你好 \udcff"}


def test_a_pipe_that_closes_ends_the_command_in_peace():
    read, write = os.pipe()
    os.close(read)
    done = run("--many", "20000", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_one_sentence():
    with open("/dev/full", "wb") as full:
        done = run(stdout=full)
    assert done.returncode == 8
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


def test_closed_streams_do_no_harm():
    for closing in (">&-", "2>&-", "<&-"):
        done = subprocess.run(f"{sys.executable} -c '{WRITES}' {closing}", shell=True, capture_output=True, timeout=60)
        assert done.returncode == 0, done


def test_a_json_file_that_cannot_be_written_is_refused_before_work(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file" / "f.json"):
        done = run("--json", str(place))
        assert done.returncode == 8
        assert done.stdout == b""
