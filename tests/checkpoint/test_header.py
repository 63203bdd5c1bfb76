from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import deserialize

from mediant.checkpoint.header import LENGTH_BYTES, header_bytes, header_length, parse_header, place
from mediant.errors import CheckpointError
from mediant.forms.parts import ITEM_BYTES

METADATA = {"format": "mediant", "version": "1", "manifest_sha256": "0" * 64}
PARTS = st.dictionaries(
    st.text("abc.é", min_size=1, max_size=6),
    st.tuples(st.sampled_from(sorted(ITEM_BYTES)), st.lists(st.integers(0, 5), max_size=3).map(tuple)),
    max_size=8,
)
Parts = dict[str, tuple[str, tuple[int, ...]]]


def data_bytes(parts: Parts) -> int:
    return sum(ITEM_BYTES[dtype] * math.prod(shape) for dtype, shape in parts.values())


@given(PARTS)
def test_what_is_placed_can_be_read_back(parts: Parts) -> None:
    slots = place(parts)
    header = header_bytes(slots, METADATA)
    length = header_length(header, len(header) + data_bytes(parts), "it")
    assert length == len(header) - LENGTH_BYTES
    assert parse_header(header[LENGTH_BYTES:], data_bytes(parts), "it") == (slots, METADATA)


@given(PARTS)
def test_every_part_is_aligned_in_the_file(parts: Parts) -> None:
    slots = place(parts)
    header = header_bytes(slots, METADATA)
    assert slots.keys() == parts.keys()
    for slot in slots.values():
        assert (len(header) + slot.begin) % ITEM_BYTES[slot.dtype] == 0


@given(PARTS, st.integers(0, 1 << 32))
def test_the_safetensors_library_reads_the_same(parts: Parts, seed: int) -> None:
    data = np.random.default_rng(seed).bytes(data_bytes(parts))
    slots = place(parts)
    theirs = dict(deserialize(header_bytes(slots, METADATA) + data))
    assert theirs.keys() == parts.keys()
    for key, (_, shape) in parts.items():
        assert tuple(theirs[key]["shape"]) == shape
        assert bytes(theirs[key]["data"]) == data[slots[key].begin : slots[key].end]


def test_the_length_of_the_header_does_not_depend_on_the_hash() -> None:
    slots = place({"a": ("uint8", (3,))})
    assert len(header_bytes(slots, METADATA)) == len(header_bytes(slots, METADATA | {"manifest_sha256": "f" * 64}))


@pytest.mark.parametrize(
    ("start", "size"),
    [
        (b"", 0),
        (b"\x08", 1),
        (b"\x00" * 7, 7),
        (b"\x08" + b"\x00" * 7, 15),
        (b"\xff" * 8, 1 << 40),
        (b"\x09" + bytes(7), 99),
    ],
)
def test_an_impossible_header_length_is_refused(start: bytes, size: int) -> None:
    with pytest.raises(CheckpointError, match=r"too short for its own header|no multiple of 8"):
        header_length(start, size, "it")


def entry(dtype: str, shape: object, offsets: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a": entry("U8", [4], [0, 4])}, "holds 8 bytes of data, where its header says 4"),
        ({"a": entry("U8", [9], [0, 9])}, "holds 8 bytes of data, where its header says 9"),
        ({"a": entry("U8", [4], [4, 8])}, "begins at 4"),
        ({"a": entry("U8", [8], [0, 8]), "b": entry("U8", [8], [0, 8])}, "begins at 0"),
        ({"a": entry("U8", [5], [0, 5]), "b": entry("U8", [4], [4, 8])}, "begins at 4"),
        ({"a": entry("U8", [3], [0, 3]), "b": entry("U8", [4], [4, 8])}, "begins at 4"),
        ({"a": entry("U8", [3], [0, 3]), "b": entry("F16", [2], [3, 7])}, "begins at 3"),
        ({"a": entry("F32", [8], [0, 8])}, "do not fit the shape"),
        ({"a": entry("U8", [8], [8, 0])}, "do not fit the shape"),
        ({"a": entry("U8", [8], [0])}, "do not fit the shape"),
        ({"a": entry("U8", [8], [0, 4, 8])}, "do not fit the shape"),
        ({"a": entry("U8", [1 << 63, 1 << 63, 2], [0, 8])}, "do not fit the shape"),
        ({"a": entry("U8", [1] * 9, [0, 1])}, "has 9 axes"),
        ({"a": entry("U8", [-8], [0, 8])}, "whole numbers"),
        ({"a": entry("U8", [8.0], [0, 8])}, "whole numbers"),
        ({"a": entry("U8", [8], [0, True])}, "whole numbers"),
        ({"a": entry("F64", [1], [0, 8])}, "the type 'F64' is none of"),
        ({"a": entry("U8", 8, [0, 8])}, "wrong kind"),
        ({"a": {"dtype": "U8", "shape": [8]}}, "lacks the field"),
        ({"a": entry("U8", [8], [0, 8]) | {"more": 1}}, "unknown field"),
        ({"a": 1}, "not a JSON object"),
        ({"__metadata__": None}, "metadata of it is not a JSON object"),
    ],
)
def test_a_header_that_lies_is_refused(entries: dict[str, object], message: str) -> None:
    text = json.dumps({"__metadata__": METADATA} | entries).encode()
    with pytest.raises(CheckpointError, match=message):
        parse_header(text, 8, "it")
