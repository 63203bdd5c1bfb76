"""The first difference between two folders of outputs, told so that a person finds it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Letters of a JSON text around the first difference.
AROUND = 60


def first_difference(old: Path, new: Path, renamed: Mapping[str, str]) -> str | None:
    """What differs first between all files of two folders, or None.

    Args:
        old: a folder.
        new: the folder that has to be equal.
        renamed: words of the new folder's JSON texts by the word of the old that they stand for. Then JSON texts are
            compared by content, hashes and lengths aside, and parts of weights wherever they lie in their file.
    """
    names = [sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()) for folder in (old, new)]
    for name in sorted(set(names[0]) ^ set(names[1])):
        return f"{name} is only in the {'old' if name in names[0] else 'new'} tree's output"
    for name in names[0]:
        before, after = (old / name).read_bytes(), (new / name).read_bytes()
        if renamed:
            before, after = _renamed(before, renamed), _renamed(after, {})
        if before != after:
            return f"{name}: {_told(before, after)}"
    return None


def _told(old: bytes, new: bytes) -> str:
    place = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    part = _part(old, place)
    if part:
        return f"byte {place}, in {part}"
    texts = [data[max(0, place - AROUND) : place + AROUND].decode("utf-8", "replace") for data in (old, new)]
    return f"byte {place}: {texts[0]!r} became {texts[1]!r}"


def _part(data: bytes, place: int) -> str | None:
    """The stored part of a safetensors file at that byte."""
    length = int.from_bytes(data[:8], "little")
    if not 8 + length <= place < len(data):
        return None
    header = json.loads(data[8 : 8 + length])
    within = place - 8 - length
    for name, entry in header.items():
        if name != "__metadata__" and entry["data_offsets"][0] <= within < entry["data_offsets"][1]:
            return f"{name}, byte {within - entry['data_offsets'][0]}"
    return None


def _renamed(data: bytes, renamed: Mapping[str, str]) -> bytes:
    """A JSON text with its words renamed and without what follows from its length; other files as they are."""
    length = int.from_bytes(data[:8], "little")
    if data[8:9] == b"{" and 8 + length <= len(data):
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        parts = {
            name: data[8 + length + entry["data_offsets"][0] : 8 + length + entry["data_offsets"][1]].hex()
            for name, entry in header.items()
        }
        return json.dumps(in_new_words(parts, renamed), indent=1, sort_keys=True).encode()
    try:
        return json.dumps(in_new_words(json.loads(data), renamed), indent=1).encode()
    except ValueError:
        return data


def in_new_words(value: Any, renamed: Mapping[str, str]) -> Any:
    """A JSON value with every renamed word, in names and texts, replaced."""
    if isinstance(value, dict):
        return {in_new_words(name, renamed): in_new_words(item, renamed) for name, item in value.items()}
    if isinstance(value, list):
        return [in_new_words(item, renamed) for item in value]
    if isinstance(value, str):
        return re.sub(r"[\w-]+", lambda word: renamed.get(word[0], word[0]), value)
    return value
