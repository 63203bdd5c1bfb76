"""The header of a safetensors file: where each part lies.

The format is that of the safetensors project (its README, section "Format"): 8 bytes with the length of a JSON
header, little-endian; the header; the data, without holes. The safetensors library writes `__metadata__` in random
order and wants all tensors in memory at once; a checkpoint has the same bytes every time and is written as it is
computed, so the header is made here. The library reads the files (tests/checkpoint/test_header.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from mediant.checkpoint import strict_json
from mediant.errors import CheckpointError
from mediant.forms.parts import ITEM_BYTES

DTYPE_CODES = {"uint8": "U8", "float16": "F16", "bfloat16": "BF16", "float32": "F32"}
LENGTH_BYTES = 8
# Where the data begin; the tiles lie first there and are whole vectors of so many bytes.
ALIGNMENT = 64
TILE_BYTES = 32
# The limit of the safetensors library.
MOST_HEADER_BYTES = 100_000_000
MOST_AXES = 8


@dataclass(frozen=True)
class Slot:
    """One part in the data: its type and shape, and its bytes from `begin` to before `end`."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def place(parts: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, Slot]:
    """Lays parts one behind another: tiles first, so that kernels find them aligned, then wide items, so that all are;
    otherwise in the given order.
    """
    slots = {}
    begin = 0
    for key, (dtype, shape) in sorted(parts.items(), key=lambda item: _rank(item[0], item[1][0])):
        end = begin + math.prod(shape) * ITEM_BYTES[dtype]
        slots[key] = Slot(dtype, shape, begin, end)
        begin = end
    return slots


def _rank(key: str, dtype: str) -> int:
    return -TILE_BYTES if key.endswith(".tiles") else -ITEM_BYTES[dtype]


def header_bytes(slots: Mapping[str, Slot], metadata: Mapping[str, str]) -> bytes:
    """Returns all that stands before the data: the length and the header, filled up so that the data begin at a
    multiple of 64 bytes.
    """
    entries = {
        key: {"dtype": DTYPE_CODES[s.dtype], "shape": s.shape, "data_offsets": [s.begin, s.end]}
        for key, s in slots.items()
    }
    text = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def header_length(start: bytes, file_bytes: int, where: str) -> int:
    """Returns the bytes of the header's JSON, from the first bytes of a file of `file_bytes`.

    Raises:
        CheckpointError: the file is too short for its own header, or the header is not filled up to 8 bytes.
    """
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if len(start) < LENGTH_BYTES or length > min(file_bytes - LENGTH_BYTES, MOST_HEADER_BYTES):
        raise CheckpointError(f"{where} is too short for its own header; it was cut or damaged.")
    if length % 8:
        raise CheckpointError(f"The header of {where} has {length} bytes, which is no multiple of 8.")
    return length


def parse_header(text: bytes, data_bytes: int, where: str) -> tuple[dict[str, Slot], dict[str, str]]:
    """Slots and metadata of a header.

    Args:
        text: the header's JSON.
        data_bytes: bytes of the file behind the header; the slots must cover them without hole or overlap.
        where: the file, for messages.

    Raises:
        CheckpointError: anything that a safetensors file of ours would not have.
    """
    entries = dict(strict_json.mapping(strict_json.parse(text, f"The header of {where}"), f"The header of {where}"))
    metadata = strict_json.mapping(entries.pop("__metadata__", None), f"The metadata of {where}")
    slots = {key: _slot(entry, f"the header entry {key!r} of {where}") for key, entry in entries.items()}
    position = 0
    for key, slot in sorted(slots.items(), key=lambda item: (item[1].begin, item[1].end)):
        if slot.begin != position or slot.begin % ITEM_BYTES[slot.dtype]:
            raise CheckpointError(f"The part {key!r} of {where} begins at {slot.begin}; {position}, aligned, is right.")
        position = slot.end
    if position != data_bytes:
        raise CheckpointError(f"{where} holds {data_bytes} bytes of data, where its header says {position}.")
    return slots, metadata


def _slot(entry: object, where: str) -> Slot:
    found = strict_json.fields(entry, {"dtype": str, "shape": list, "data_offsets": list}, where)
    dtypes = {code: dtype for dtype, code in DTYPE_CODES.items()}
    if found["dtype"] not in dtypes:
        raise CheckpointError(f"In {where}, the type {found['dtype']!r} is none of {', '.join(dtypes)}.")
    dtype = dtypes[found["dtype"]]
    shape = strict_json.whole_numbers(found["shape"], f"The shape in {where}")
    offsets = strict_json.whole_numbers(found["data_offsets"], f"The offsets in {where}")
    if len(shape) > MOST_AXES:
        raise CheckpointError(f"In {where}, the shape has {len(shape)} axes; at most {MOST_AXES} are right.")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * ITEM_BYTES[dtype]:
        raise CheckpointError(f"In {where}, the offsets {list(offsets)[:3]} do not fit the shape {list(shape)[:8]}.")
    return Slot(dtype, shape, *offsets)
