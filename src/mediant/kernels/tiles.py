"""Codes as the kernels read them: eight rows in the lanes of a vector, digits of a code in regions of their own.

The rows of a run are taken eight at a time, as *panels*; the last is filled up with zeros, and so are columns up to a
multiple of 32. A code of b bits is cut into *digits*, most significant first, of the widths that `WIDTHS` says. Each
digit of each run is a *region*: for every panel, for every block of 32 columns, 32 w bytes, w being the width. Block
column 4 q + c of row r is in byte lane 4 r + c of a vector of 32 bytes: with w = 4, vector q div 2, the lower half of
the byte for even q; with w = 2, vector q div 4, bits 2 (q mod 4) and up; with w = 1, bit `ONE_BIT[q]`. So a load gives
four columns of eight rows per byte lane, which one instruction multiplies by four activations and sums.

The first k regions of a *nested* run are by themselves the tiles of the codes' leading bits. Scale codes lie panel by
panel, group by group: eight codes of s bits, that of row r in bits r s and up of s bytes, little-endian; a zero byte
follows the last, so that a group of 3-bit codes can be read as four bytes.

Every number is moved once. docs/theory/kernels.md has the reasons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mediant.values import RowSpan

Bytes = NDArray[np.uint8]

PANEL = 8
BLOCK = 32
STORAGES = ("tiles", "nested")

WIDTHS: dict[str, dict[int, tuple[int, ...]]] = {
    "tiles": {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (4, 4)},
    "nested": {
        1: (1,), 2: (2,), 3: (2, 1), 4: (2, 1, 1), 5: (2, 1, 1, 1), 6: (2, 1, 1, 2), 7: (2, 1, 1, 2, 1),
        8: (2, 1, 1, 4),
    },
}  # fmt: skip

# The bit of a byte for each quad of columns where a digit is one bit wide: quads two apart are four bits apart.
ONE_BIT = (0, 1, 4, 5, 2, 3, 6, 7)


def panels(rows: int) -> int:
    """Panels that a run of so many rows takes."""
    return -(-rows // PANEL)


def blocks(columns: int) -> int:
    """Blocks that so many columns take."""
    return -(-columns // BLOCK)


def tile_bytes(runs: Sequence[RowSpan], columns: int) -> int:
    """Returns the bytes of the tiles of a matrix."""
    return sum(panels(run.rows) * blocks(columns) * BLOCK * run.bits for run in runs)


def scale_code_bytes(runs: Sequence[RowSpan], groups: int, scale_bits: int) -> int:
    """Returns the bytes of the scale codes of a matrix."""
    return sum(panels(run.rows) for run in runs) * groups * scale_bits + 1


def pack_tiles(codes: Bytes, bits: int, storage: str) -> Bytes:
    """Returns the regions of one run, one behind another.

    Args:
        codes: uint8 [rows, columns], each below 2^bits.
        bits: 1 to 8.
        storage: `tiles` or `nested`.

    Returns:
        uint8, [tile_bytes].

    >>> pack_tiles(np.full((1, 5), 3, np.uint8), 2, "tiles")[:5].tolist()
    [15, 3, 3, 3, 0]
    """
    lanes = _to_lanes(codes)
    regions = []
    below = bits
    for width in WIDTHS[storage][bits]:
        below -= width
        regions.append(_joined(lanes >> np.uint8(below) & np.uint8((1 << width) - 1), width))
    return np.concatenate([region.reshape(-1) for region in regions])


def unpack_tiles(data: Bytes, rows: int, columns: int, widths: Sequence[int]) -> Bytes:
    """Returns the inverse of `pack_tiles`: codes [rows, columns] from the first regions, of the given widths.

    >>> codes = np.arange(40, dtype=np.uint8).reshape(1, 40) % 8
    >>> bool((unpack_tiles(pack_tiles(codes, 3, "tiles"), 1, 40, (2, 1)) == codes).all())
    True
    """
    shape = (panels(rows), blocks(columns))
    lanes = np.zeros((*shape, 8, PANEL * 4), np.uint8)
    for width, region in zip(widths, regions(data, rows, columns, widths), strict=True):
        lanes <<= width
        lanes |= _split(region.reshape(*shape, width, BLOCK), width)
    return _from_lanes(lanes)[:rows, :columns]


def regions(data: Bytes, rows: int, columns: int, widths: Sequence[int]) -> Iterator[Bytes]:
    """Views of the first regions of a run."""
    begin = 0
    for width in widths:
        end = begin + panels(rows) * blocks(columns) * BLOCK * width
        yield data[begin:end]
        begin = end


def pack_scale_codes(codes: Bytes, runs: Sequence[RowSpan], bits: int) -> Bytes:
    """Returns the scale codes [rows, groups] of a whole matrix, panel by panel, and the zero byte at the end."""
    pieces, row = [], 0
    for run in runs:
        padded = np.zeros((panels(run.rows) * PANEL, codes.shape[1]), np.uint8)
        padded[: run.rows] = codes[row : row + run.rows]
        by_group = padded.reshape(-1, PANEL, codes.shape[1]).transpose(0, 2, 1)
        planes = np.unpackbits(by_group[..., None], axis=-1, bitorder="little")[..., :bits]
        pieces.append(np.packbits(planes.reshape(-1), bitorder="little"))
        row += run.rows
    return np.concatenate([*pieces, np.zeros(1, np.uint8)])


def unpack_scale_codes(data: Bytes, runs: Sequence[RowSpan], groups: int, bits: int) -> Bytes:
    """Returns the inverse of `pack_scale_codes`: [rows, groups]."""
    planes = np.unpackbits(data[:-1], bitorder="little").reshape(-1, groups, PANEL, bits)
    wide = np.zeros((*planes.shape[:-1], 8), np.uint8)
    wide[..., :bits] = planes
    codes = np.packbits(wide, axis=-1, bitorder="little")[..., 0].transpose(0, 2, 1).reshape(-1, groups)
    pieces, panel = [], 0
    for run in runs:
        pieces.append(codes[panel * PANEL : panel * PANEL + run.rows])
        panel += panels(run.rows)
    return np.concatenate(pieces)


def _to_lanes(codes: Bytes) -> Bytes:
    """[rows, columns] as [panels, blocks, 8 quads, 32 lanes]."""
    rows, columns = codes.shape
    padded = np.zeros((panels(rows) * PANEL, blocks(columns) * BLOCK), np.uint8)
    padded[:rows, :columns] = codes
    split = padded.reshape(panels(rows), PANEL, blocks(columns), 8, 4)
    return np.ascontiguousarray(split.transpose(0, 2, 3, 1, 4)).reshape(panels(rows), blocks(columns), 8, PANEL * 4)


def _from_lanes(lanes: Bytes) -> Bytes:
    tall, wide = lanes.shape[:2]
    split = lanes.reshape(tall, wide, 8, PANEL, 4).transpose(0, 3, 1, 2, 4)
    return np.ascontiguousarray(split).reshape(tall * PANEL, wide * BLOCK)


def _places(width: int) -> list[tuple[int, int]]:
    """Returns the vector and the lowest bit of each of a block's eight quads."""
    if width == 1:
        return [(0, bit) for bit in ONE_BIT]
    each = 8 // width
    return [(quad // each, width * (quad % each)) for quad in range(8)]


def _joined(digits: Bytes, width: int) -> Bytes:
    out = np.zeros((*digits.shape[:2], width, BLOCK), np.uint8)
    for quad, (vector, bit) in enumerate(_places(width)):
        out[:, :, vector] |= digits[:, :, quad] << np.uint8(bit)
    return out


def _split(region: Bytes, width: int) -> Bytes:
    digits = [region[:, :, vector] >> np.uint8(bit) & np.uint8((1 << width) - 1) for vector, bit in _places(width)]
    return np.stack(digits, axis=2)
