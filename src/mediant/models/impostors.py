"""Recognises what often lies in place of a model's file: a Git LFS pointer, an error page, half a download.

Each of them would otherwise end in a parser's complaint about a byte, from which nobody learns what to do.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mediant import files
from mediant.errors import ModelError

LFS = b"version https://git-lfs.github.com/spec/"
PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<error")
BINARY = (".safetensors", ".gguf", ".model")
KINDS = (
    (b"PK\x03\x04", "a zip archive or a pickle of PyTorch"),
    (b"\x80\x02", "a pickle"),
    (b"\x1f\x8b", "a gzip archive"),
)
START = 1024
MOST_HEADER = 10**8
"""Bytes of a safetensors header; the library refuses more."""


def check(file: Path) -> None:
    """Refuses a file that is not what its name says, by its first bytes.

    Raises:
        ModelError: it is a Git LFS pointer, a web page, or empty; or where weights or a vocabulary should be, it is
            an answer in JSON, a pickle or an archive; or weights of the other format.
    """
    start = _start(file)
    if (found := what_it_is(start, file.suffix.lower())) is None:
        return
    advice = "download it again"
    if start.startswith(LFS):
        advice = "run 'git lfs pull' in its folder, or download it again"
        if size := re.search(rb"^size (\d+)$", start, re.MULTILINE):
            found += f" to {int(size[1])} bytes that were not fetched"
    raise ModelError(f"{file} is {found}; {advice}.")


def what_it_is(start: bytes, suffix: str) -> str | None:
    """Names what the first bytes of a file of that suffix show it to be instead; None where nothing speaks against it.

    >>> what_it_is(b"version https://git-lfs.github.com/spec/v1", ".safetensors")
    'a Git LFS pointer'
    >>> what_it_is(b"GGUF", ".gguf")
    """
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(LFS):
        return "a Git LFS pointer"
    if not start:
        return "empty" if suffix in (*BINARY, ".json") else None
    if suffix in (*BINARY, ".json") and text.startswith(PAGES):
        return "a web page, such as servers send in place of a file that they refuse"
    if suffix not in BINARY:
        return None
    if text.startswith(b"{"):
        return "a text in JSON, such as servers send in place of a file that they refuse"
    if suffix != ".gguf" and start.startswith(b"GGUF"):
        return "a GGUF file under another name"
    if suffix == ".gguf" and start[8:9] == b"{":
        return "a safetensors file under another name"
    return next((kind for magic, kind in KINDS if start.startswith(magic)), None)


def check_length(file: Path) -> None:
    """Refuses a safetensors file that has fewer or more bytes than its header describes.

    A header that cannot be read is left to the library.

    Raises:
        ModelError: with both sizes.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > MOST_HEADER:
            return
        header = opened.read(length)
    if len(header) < length or size < 8:
        raise ModelError(f"The weight file {file} ends within its header, after {size} bytes; download it again.")
    expected = 8 + length + _described(header)
    if expected > size:
        raise ModelError(f"The weight file {file} has {size} of its {expected} bytes; download it again.")


def _described(header: bytes) -> int:
    """Returns the bytes of data that a safetensors header describes; none where it is not one."""
    try:
        entries: dict[str, Any] = json.loads(header)
        return max((int(e["data_offsets"][1]) for name, e in entries.items() if name != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return 0


def _start(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(START)
    except OSError as problem:
        raise ModelError(f"{file} cannot be read: {files.reason(problem)}.") from None
