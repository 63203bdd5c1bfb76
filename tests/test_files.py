"""Files that are whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os

import pytest

from mediant import files
from mediant.errors import StorageError


def test_write_replaces_and_leaves_nothing_beside(tmp_path):
    target = tmp_path / "new" / "file"
    files.write(target, b"one")
    files.write(target, b"two")
    assert target.read_bytes() == b"two"
    assert [f.name for f in target.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "no space"), (errno.EACCES, "permission")])
def test_a_refusal_is_one_sentence_and_keeps_the_old(tmp_path, monkeypatch, code, words):
    target = tmp_path / "file"
    files.write(target, b"old")

    def refuse(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=words):
        files.write(target, b"new")
    assert target.read_bytes() == b"old"
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


def test_hashes_and_sizes(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "below" / "b").write_bytes(b"de")
    expected = hashlib.sha256(b"abc").hexdigest()
    assert files.sha256(b"abc") == files.file_sha256(tmp_path / "a") == expected
    assert files.folder_bytes(tmp_path) == 5


def test_the_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path))
    assert files.cache_folder() == tmp_path


def test_json_that_is_nested_too_deeply_is_a_value_error(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        files.read_json(tmp_path / "deep.json")
