"""What a file says of a grid, by bit width: all that is needed to read its levels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediant import discovery
from mediant.errors import PlanError
from mediant.forms.parts import Parts
from mediant.kernels.pairs import is_codebook
from mediant.values import RowSpan

# Reaches every grid of whole or half steps that eight bits can index.
LARGEST_FIRST_LEVEL = 1 << 16
# A grid that is fitted to data shows its form on any: as many levels as it ever has, and no two of them 1 apart.
_ANY_SAMPLE = np.linspace(-1, 1, 1025) ** 3


@dataclass(frozen=True)
class GridInfo:
    """Side information of a quantized matrix.

    An *affine* grid has the levels first, first + 1, ... and says only `first`; a *table* grid stores its levels, or
    the points of a codebook of pairs, and says here how many numbers these are, also for the bit widths at which
    leading bits of its codes can be read alone. A grid with a zero point is affine from 0.
    """

    first: Mapping[int, float] = field(default_factory=dict)
    counts: Mapping[int, int] = field(default_factory=dict)
    zero_point: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Converts the description to the manifest's JSON."""
        if self.zero_point:
            return {"kind": "zero_point"}
        if self.counts:
            return {"kind": "table"}
        return {"kind": "affine", "first": {str(bits): first for bits, first in sorted(self.first.items())}}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], runs: tuple[RowSpan, ...], parts: Parts) -> GridInfo:
        """Returns the inverse of `to_dict` for a matrix of these runs and arrays.

        Raises:
            ValueError: no Mediant writes that.
        """
        widths = {str(run.bits): run.bits for run in runs}
        if value == {"kind": "zero_point"}:
            return cls(zero_point=True)
        if value == {"kind": "table"}:
            leading = {bits for bits in range(1, min(9, max(widths.values(), default=0))) if f"levels.{bits}" in parts}
            return cls(counts={bits: _count(parts, bits) for bits in sorted({*widths.values(), *leading})})
        first = value.get("first")
        if value != {"kind": "affine", "first": first} or not isinstance(first, dict) or first.keys() != widths.keys():
            raise ValueError("the grid is none of zero_point, table and affine with a first level a bit width")
        numbers = [n for n in first.values() if type(n) in (int, float) and abs(n) <= LARGEST_FIRST_LEVEL]
        if len(numbers) < len(first) or any(2 * n != int(2 * n) for n in numbers):
            raise ValueError(f"a first level is not a multiple of 1/2 of at most {LARGEST_FIRST_LEVEL}")
        return cls(first={widths[bits]: float(n) for bits, n in first.items()})


def _count(parts: Parts, bits: int) -> int:
    _, shape = parts.get(f"levels.{bits}", ("", ()))
    if len(shape) == 1 and (1 <= shape[0] <= 1 << min(bits, 8) or is_codebook(bits, shape[0])):
        return shape[0]
    raise ValueError(f"a table grid needs 1 to 2^{bits} levels in the part 'levels.{bits}'")


def grid_info(grid: Mapping[str, Any], runs: tuple[RowSpan, ...]) -> GridInfo:
    """Describes the grid that a plan names, at the bit widths of its row spans, for the file.

    Raises:
        PlanError: there is no such grid, or it does not have such a bit width.
    """
    return _grid_info(json.dumps(dict(grid), sort_keys=True), tuple(sorted({run.bits for run in runs})))


@cache
def _grid_info(spec: str, widths: tuple[int, ...]) -> GridInfo:
    grid = discovery.make("grids", json.loads(spec))
    if hasattr(grid, "leading"):
        widths = tuple(sorted({*widths, *(leading for bits in widths for leading in grid.leading(bits))}))
    try:
        tables = {bits: np.asarray(grid.levels(bits, _ANY_SAMPLE)).reshape(-1) for bits in widths}
    except (ArithmeticError, TypeError, ValueError) as problem:
        raise PlanError(f"The grid {spec} does not have the bit widths {widths}: {problem}.") from None
    if grid.zero_point:
        return GridInfo(zero_point=True)
    first = {bits: first_level(table) for bits, table in tables.items()}
    if None in first.values():
        return GridInfo(counts={bits: len(table) for bits, table in tables.items()})
    return GridInfo(first={bits: level for bits, level in first.items() if level is not None})


def first_level(levels: NDArray[np.floating]) -> float | None:
    """Returns the first level if it is a multiple of 1/2 and the others follow in steps of 1, else None."""
    first = float(levels[0])
    affine = (2 * first).is_integer() and bool(np.all(np.diff(levels) == 1))
    return first if affine else None
