import hashlib
import mmap
import os
import shutil
import time

import pytest

from mediant import files
from mediant.models import file_hashes
from mediant.models.file_hashes import PAGE, PAGES, file_hash, file_state


@pytest.fixture(autouse=True)
def _settled_at_once(monkeypatch, tmp_path):
    """No test waits: what was just written counts as settled, in a cache of the test's own."""
    monkeypatch.setattr(file_hashes, "SETTLED_NS", 0)
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def weights(tmp_path):
    """A file of many pages, its hash remembered, its times at zero."""
    file = tmp_path / "weights"
    file.write_bytes(bytes(3 * PAGE * PAGES))
    os.utime(file, ns=(0, 0))
    time.sleep(0.01)
    file_hash(file)
    return file


def true_hash(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_hash_is_that_of_the_bytes_now(tmp_path):
    file = tmp_path / "weights"
    for data in (b"", b"one", b"two", b"one"):
        file.write_bytes(data)
        assert file_hash(file) == file_hash(file) == hashlib.sha256(data).hexdigest()


def test_an_unchanged_file_is_not_read_again(weights, monkeypatch):
    before = file_hash(weights)
    monkeypatch.setattr(files, "file_sha256", lambda _: "read again")
    assert file_hash(weights) == before
    os.utime(weights, (1, 1))
    assert file_hash(weights) == "read again"


def other(file, at=1000):
    """A file beside `file` of the same size and times, with another byte at `at`."""
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    made = file.with_name("other")
    made.write_bytes(data)
    os.utime(made, ns=(0, 0))
    return made


def copied_over(file):
    shutil.copy2(other(file), file)


def renamed_over(file):
    other(file).replace(file)


def written_into(file):
    with file.open("r+b") as opened:
        opened.seek(1000)
        opened.write(b"x")
    os.utime(file, ns=(0, 0))


def linked_over(file):
    made = other(file)
    file.unlink()
    file.symlink_to(made)


def hard_linked_over(file):
    made = other(file)
    file.unlink()
    os.link(made, file)


def mapped_and_changed(file):
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
        mapped[1000] = 1
        mapped.flush()
    os.utime(file, ns=(0, 0))


def folder_exchanged(file):
    """Both files lie in their own folders, and a link of folders is turned from one to the other."""
    made = other(file)
    for name, inside in (("one", file), ("two", made)):
        (file.parent / name).mkdir()
        inside.rename(file.parent / name / "weights")
    file.symlink_to(file.parent / "two" / "weights")


@pytest.mark.parametrize(
    "replace",
    [
        copied_over,
        renamed_over,
        written_into,
        linked_over,
        hard_linked_over,
        mapped_and_changed,
        folder_exchanged,
    ],
)
def test_another_file_of_the_same_size_and_time_is_noticed(weights, replace):
    before = file_hash(weights)
    size = weights.stat().st_size
    replace(weights)
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (size, 0)
    assert file_hash(weights) == true_hash(weights) != before


@pytest.mark.parametrize("at", [0, 1000, 3 * PAGE * PAGES - 1])
def test_a_file_system_that_tells_nothing(weights, monkeypatch, at):
    """Where status never changes, as on some network shares, the sampled pages still tell."""
    real = os.fstat

    def blank(descriptor):
        status = list(real(descriptor))
        return os.stat_result(status[:6] + status[6:7] + [0, 0, 0])

    monkeypatch.setattr(file_hashes.os, "fstat", blank)
    file_hash(weights)
    data = bytearray(weights.read_bytes())
    data[at] ^= 1
    weights.write_bytes(data)
    assert file_hash(weights) == true_hash(weights)


def test_what_has_just_changed_is_not_remembered(tmp_path, monkeypatch):
    """A second write within one tick of the clock leaves the same times."""
    monkeypatch.setattr(file_hashes, "SETTLED_NS", 10**12)
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    file_hash(file)
    assert not (tmp_path / "cache" / "hashes").exists()


def test_what_changes_while_it_is_read_is_not_remembered(weights, monkeypatch, tmp_path):
    read = files.file_sha256

    def slowly(path):
        digest = read(path)
        written_into(path)
        return digest

    weights.write_bytes(b"first" * PAGE)
    monkeypatch.setattr(files, "file_sha256", slowly)
    file_hash(weights)
    monkeypatch.setattr(files, "file_sha256", read)
    assert file_hash(weights) == true_hash(weights)


def test_the_state_reads_little(weights):
    """However large the file, so many pages: the state of an image of a terabyte without content is instant."""
    with weights.open("r+b") as opened:
        opened.truncate(10**12)
    began = time.perf_counter()
    assert file_state(weights)[0] == 10**12
    assert time.perf_counter() - began < 5


def test_a_cache_that_cannot_be_used_only_costs_time(tmp_path, monkeypatch):
    (tmp_path / "cache").write_bytes(b"a file where the cache folder should be")
    (tmp_path / "weights").write_bytes(b"one")
    assert file_hash(tmp_path / "weights") == hashlib.sha256(b"one").hexdigest()


def test_a_damaged_memory_is_ignored(weights, tmp_path):
    (memory,) = (tmp_path / "cache" / "hashes").iterdir()
    for damage in (b"", b"[]", b'{"state": 1}', b"\xff"):
        memory.write_bytes(damage)
        assert file_hash(weights) == true_hash(weights)
