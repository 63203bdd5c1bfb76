"""How codes of a fixed length lie in the file: as `rows` of bit planes, or for kernels as `tiles` or `nested` ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.kernels.bit_planes import pack, packed_bytes, unpack
from mediant.kernels.tiles import (
    BLOCK,
    PANEL,
    WIDTHS,
    blocks,
    pack_scale_codes,
    pack_tiles,
    scale_code_bytes,
    tile_bytes,
    unpack_scale_codes,
    unpack_tiles,
)
from mediant.values import RowSpan

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Rows:
    """Bit planes run by run (kernels/bit_planes.py), for every grid, group and width of scales."""

    part = "codes"

    def stored_row(self, columns: int) -> tuple[int, int]:
        """Returns columns of a row as they are stored, and rows that are stored together."""
        return columns, 1

    def code_bytes(self, run: RowSpan, columns: int) -> int:
        """Returns the bytes of the codes of one run."""
        return packed_bytes(run.rows * columns, run.bits)

    def pack(self, codes: Bytes, bits: int) -> Bytes:
        """Returns codes [rows, columns] of one run as they are stored."""
        return pack(codes.reshape(-1), bits)

    def unpack(self, data: Bytes, run: RowSpan, columns: int) -> Bytes:
        """Returns the inverse of `pack`, from what begins with it."""
        return unpack(data, run.rows * columns, run.bits).reshape(run.rows, columns)

    def scale_code_bytes(self, runs: Sequence[RowSpan], groups: int, bits: int) -> int:
        """Returns the bytes of all scale codes."""
        return packed_bytes(sum(run.rows for run in runs) * groups, bits)

    def pack_scale_codes(self, codes: Bytes, runs: Sequence[RowSpan], bits: int) -> Bytes:
        """Returns the scale codes [rows, groups] as they are stored."""
        return pack(codes.reshape(-1), bits)

    def unpack_scale_codes(self, data: Bytes, runs: Sequence[RowSpan], groups: int, bits: int) -> Bytes:
        """Returns the inverse of `pack_scale_codes`."""
        rows = sum(run.rows for run in runs)
        return unpack(data, rows * groups, bits).reshape(rows, groups)


@dataclass(frozen=True)
class Tiles:
    """Panels of eight rows (kernels/tiles.py), whose digits are those of `storage`: `tiles` or `nested`."""

    storage: str
    part = "tiles"

    def stored_row(self, columns: int) -> tuple[int, int]:
        """Returns columns of a row as they are stored, and rows that are stored together."""
        return blocks(columns) * BLOCK, PANEL

    def code_bytes(self, run: RowSpan, columns: int) -> int:
        """Returns the bytes of the codes of one run."""
        return tile_bytes([run], columns)

    def pack(self, codes: Bytes, bits: int) -> Bytes:
        """Returns codes [rows, columns] of one run as they are stored."""
        return pack_tiles(codes, bits, self.storage)

    def unpack(self, data: Bytes, run: RowSpan, columns: int) -> Bytes:
        """Returns the inverse of `pack`, from what begins with it."""
        return unpack_tiles(data, run.rows, columns, WIDTHS[self.storage][run.bits])

    def scale_code_bytes(self, runs: Sequence[RowSpan], groups: int, bits: int) -> int:
        """Returns the bytes of all scale codes."""
        return scale_code_bytes(runs, groups, bits)

    def pack_scale_codes(self, codes: Bytes, runs: Sequence[RowSpan], bits: int) -> Bytes:
        """Returns the scale codes [rows, groups] as they are stored."""
        return pack_scale_codes(codes, runs, bits)

    def unpack_scale_codes(self, data: Bytes, runs: Sequence[RowSpan], groups: int, bits: int) -> Bytes:
        """Returns the inverse of `pack_scale_codes`."""
        return unpack_scale_codes(data, runs, groups, bits)


def layout(storage: str) -> Rows | Tiles:
    """Returns the layout that a plan names."""
    return Rows() if storage == "rows" else Tiles(storage)
