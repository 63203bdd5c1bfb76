"""Statistics that one run leaves are what another takes, whole or not at all, and never grow beyond their bound."""

from __future__ import annotations

import os
import threading

import pytest

from mediant import files
from mediant.errors import UsageError
from mediant.pipeline import calibration_cache
from mediant.pipeline.calibration_cache import offer, take
from mediant.pipeline.compress import compress
from mediant.pipeline.request import CompressRequest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MEDIANT_CACHE_SIZE", "100")
    return tmp_path / "cache" / "statistics"


def folder(path, size=10, name="a"):
    files.write(path / name, b"x" * size)
    return path


def test_what_was_offered_is_taken_for_the_same_key_only(tmp_path):
    offer({"model": 1}, folder(tmp_path / "one"), ["a"])
    assert not take({"model": 2}, tmp_path / "two")
    assert take({"model": 1}, tmp_path / "two")
    assert (tmp_path / "two" / "a").read_bytes() == b"x" * 10
    # A file that is replaced in one place stays as it was in the other.
    files.write(tmp_path / "two" / "a", b"other")
    assert take({"model": 1}, tmp_path / "three")
    assert (tmp_path / "three" / "a").read_bytes() == b"x" * 10


def test_the_oldest_go_when_there_is_too_much(tmp_path, cache):
    for number, age in ((1, 300), (2, 200), (3, 100)):
        offer({"model": number}, folder(tmp_path / str(number), 40), ["a"])
        for entry in cache.iterdir():
            os.utime(entry, (entry.stat().st_mtime - age, entry.stat().st_mtime - age))
    offer({"model": 4}, folder(tmp_path / "4", 40), ["a"])
    kept = [n for n in (1, 2, 3, 4) if take({"model": n}, tmp_path / "out")]
    assert kept == [3, 4]
    assert files.folder_bytes(cache) <= 100
    assert not [e for e in cache.iterdir() if e.name.startswith(".")]


def test_an_entry_larger_than_the_bound_is_not_kept(tmp_path, cache):
    offer({}, folder(tmp_path / "one", 101), ["a"])
    assert list(cache.iterdir()) == []


def test_nothing_is_kept_with_a_size_of_0(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("MEDIANT_CACHE_SIZE", "0")
    offer({}, folder(tmp_path / "one"), ["a"])
    assert not take({}, tmp_path / "two")
    assert not cache.exists()
    monkeypatch.setenv("MEDIANT_CACHE_SIZE", "1GB")
    with pytest.raises(UsageError, match="number of bytes"):
        take({}, tmp_path / "two")


def test_half_an_entry_is_none(tmp_path, cache, monkeypatch):
    both = folder(folder(tmp_path / "one"), name="b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration_cache, "_link", failing_at("b", calibration_cache._link))
        offer({}, both, ["a", "b"])
        assert not take({}, tmp_path / "two")
    offer({}, both, ["a", "b"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration_cache, "_link", failing_at("b", calibration_cache._link))
        assert not take({}, tmp_path / "two")
        assert list((tmp_path / "two").iterdir()) == []


def failing_at(name, link):
    def maybe(source, target):
        if source.name == name:
            raise OSError
        link(source, target)

    return maybe


@pytest.mark.parametrize("again", range(20))
def test_many_at_once_agree(tmp_path, again):
    taken = []

    def run(number):
        own = tmp_path / str(number)
        if not take({"again": again}, own):
            offer({"again": again}, folder(own), ["a"])
        taken.append((own / "a").read_bytes())

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken == [b"x" * 10] * 8


def test_a_second_run_does_not_calibrate_and_gives_the_same_bytes(tiny_folder, text, tmp_path, contents, monkeypatch):
    monkeypatch.setenv("MEDIANT_CACHE_SIZE", str(10**9))
    request = CompressRequest(str(tiny_folder("llama")), tmp_path / "one", size="60kB", calibration=text)
    first = compress(request)
    monkeypatch.setattr("mediant.pipeline.calibrate.collect", None)
    second = compress(CompressRequest(str(tiny_folder("llama")), tmp_path / "two", size="60kB", calibration=text))
    assert contents(first.folder) == contents(second.folder)
    with pytest.raises(TypeError):
        compress(CompressRequest(str(tiny_folder("gpt2")), tmp_path / "three", size="60kB", calibration=text))
