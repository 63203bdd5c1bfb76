import hashlib
import os

from mediant import files
from mediant.models.content import file_hash


def test_the_hash_is_that_of_the_bytes_now(tmp_path):
    file = tmp_path / "weights"
    for data in (b"", b"one", b"two", b"one"):
        file.write_bytes(data)
        assert file_hash(file) == file_hash(file) == hashlib.sha256(data).hexdigest()


def test_an_unchanged_file_is_not_read_again(tmp_path, monkeypatch):
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    before = file_hash(file)
    monkeypatch.setattr(files, "file_sha256", lambda _: "read again")
    assert file_hash(file) == before
    os.utime(file, (1, 1))
    assert file_hash(file) == "read again"


def test_a_cache_that_cannot_be_used_only_costs_time(tmp_path, monkeypatch):
    (tmp_path / "cache").write_bytes(b"a file where the cache folder should be")
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "weights").write_bytes(b"one")
    assert file_hash(tmp_path / "weights") == hashlib.sha256(b"one").hexdigest()


def test_a_damaged_memory_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "weights").write_bytes(b"one")
    file_hash(tmp_path / "weights")
    (memory,) = (tmp_path / "cache" / "hashes").iterdir()
    for damage in (b"", b"[]", b'{"state": 1}', b"\xff"):
        memory.write_bytes(damage)
        assert file_hash(tmp_path / "weights") == hashlib.sha256(b"one").hexdigest()
