"""A form's answers: words for people, views for the native decoder, codes that can learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mediant.values import RowSpan, Truncation

if TYPE_CHECKING:
    from mediant.kernels.packed_matrix import PackedMatrix

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Words:
    """A form for people to read.

    `short` and `full` say how weights are stored, the latter with the methods that found it. `bit_width` is the bit
    width of codes, or their range and mean over rows; None where only the bytes of all arrays tell. `fields` are for
    JSON.
    """

    short: str
    full: str
    bit_width: str | None = "–"
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Views:
    """A matrix for the native decoder: whole, and then with less and less of it.

    `linears` are native operators, the first of the whole matrix; `bits` are the most that each reads of a code, `runs`
    the bit widths of all codes where there are any, `truncations` the places of the views in the order in which the
    model gives up bits, where the file has one. `packed` are the matrices behind them, where kernels multiply by codes.
    """

    linears: tuple[Any, ...]
    bits: tuple[int, ...] = ()
    runs: tuple[RowSpan, ...] = ()
    truncations: tuple[Truncation, ...] = ()
    packed: tuple[PackedMatrix, ...] = ()
    name: str = ""

    @property
    def codes(self) -> int:
        """Number of codes."""
        return sum(run.rows for run in self.runs) * int(self.linears[0].columns)

    def code_bits(self, view: int) -> int:
        """Returns the bits of all codes that a view reads."""
        return sum(run.rows * min(run.bits, self.bits[view]) for run in self.runs) * int(self.linears[0].columns)


@dataclass(frozen=True)
class Codes:
    """Codes of a matrix that can learn: by run, `tables` of levels and `codes` [rows, columns].

    scales: [rows, groups]. zeros: [rows, groups], or None. rotation: seed of the basis in which all this is, or None.
    """

    tables: tuple[Floats, ...]
    codes: tuple[Bytes, ...]
    scales: Floats
    zeros: Floats | None
    group: int
    rotation: int | None
