"""A matrix times vectors, straight from the stored codes: integer products, a scale for every 32 columns.

With levels l = u (v - z), v whole numbers, row scales r, group factors f and activations a q, where q are whole numbers
that share the scale a in every block of 32 columns,

    y_i = r_i sum_b f_ib a_b u (sum_(j in b) v_ij q_j - z sum_(j in b) q_j).

The inner sums are exact in integers; the outer one is float32, block by block. Activations are rotated first if the
matrix is (kernels/rotation.py), then rounded to 8 bits with sign, or to 15 if `precise`: q = 128 h + l with h, l of 8
bits each. The largest q stands for the largest magnitude of its block (dynamic), or for a range that is fixed
beforehand (static), beyond which activations are clipped. A block whose largest magnitude, or range, is below 2^-100
counts as 0; one with a number that is not finite makes all results NaN.

The native twin works on the parts where they are mapped, any number of threads, the same bits for any number of them.
Instruction sets differ in whether a product and a sum round once or twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import native, threads
from mediant.kernels.bfloat16 import to_float32
from mediant.kernels.pairs import PAIRS, SPAN, is_codebook, join
from mediant.kernels.rotation import rotate, rotate_back
from mediant.kernels.scale_codes import ScaleForm
from mediant.kernels.tiles import (
    BLOCK,
    WIDTHS,
    panels,
    regions,
    tile_bytes,
    unpack_scale_codes,
    unpack_tiles,
)
from mediant.values import RowSpan

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# The largest whole number of a level by bit width, so that 16 bits hold the sums of products that kernels add in them.
LARGEST = {1: 31, 2: 31, 3: 31, 4: 63, 5: 127}
# Digit widths in the order in which the native twin numbers them.
LAYOUTS = (
    (1,), (2,), (2, 1), (4,), (4, 1), (4, 2), (4, 2, 1), (4, 4), (2, 1, 1), (2, 1, 1, 1), (2, 1, 1, 2),
    (2, 1, 1, 2, 1), (2, 1, 1, 4),
)  # fmt: skip
COARSE, FINE = 127, 127 * 128 + 63
LEAST = np.float32(2.0**-100)


@dataclass(frozen=True)
class WholeLevels:
    """Levels as u (v - z): `numbers` v, uint8 [2^bits], or [32] for a codebook of pairs; `zero` z; `unit` u."""

    numbers: Bytes
    zero: float
    unit: float

    @classmethod
    def of(cls, levels: Floats, bits: int) -> WholeLevels:
        """Returns the whole numbers behind a table; codes without a level get the number 0.

        Raises:
            ValueError: levels are not whole steps apart, or too many steps for a kernel of that bit width.
        """
        gaps = np.diff(np.sort(levels.astype(np.float64)))
        unit = float(gaps.min()) if bits > 5 and len(gaps) else common_step(gaps)
        lowest = levels.min()
        numbers = (levels - lowest).astype(np.float64) / unit
        most = LARGEST.get(bits, (1 << bits) - 1)
        if np.any(numbers != np.rint(numbers)) or numbers.max() > most:
            raise ValueError(f"kernels need levels that are whole steps apart, at most {most} at {bits} bits")
        if bits > 5 and not np.array_equal(numbers, np.arange(1 << bits)):
            raise ValueError("kernels need evenly spaced levels from 6 bits on")
        padded = np.zeros(max(1 << bits, len(numbers)), np.uint8)
        padded[: len(numbers)] = numbers
        return cls(padded, float(-lowest) / unit, unit)

    def suits(self, bits: int) -> bool:
        """Returns True if every code of `bits` bits has a number; from 6 bits on the number must be the code itself."""
        count = 1 << bits
        fits = len(self.numbers) == count or is_codebook(bits, len(self.numbers))
        return fits and (bits <= 5 or np.array_equal(self.numbers, np.arange(count)))

    def looked_up(self, bits: int) -> Bytes:
        """Returns the 32 numbers that native kernels look up: of 2 bits, those of the lower and of the upper of two
        codes.
        """
        table = np.zeros(32, np.uint8)
        if bits == 2 and not is_codebook(bits, len(self.numbers)):
            both = np.arange(PAIRS)
            table[:PAIRS], table[PAIRS:] = self.numbers[both & 3], self.numbers[both >> 2]
        elif bits <= 5:
            table[: len(self.numbers)] = self.numbers
        return table

    def leading(self, kept: int) -> WholeLevels:
        """Levels of the `kept` leading bits of the codes: means of those that they lead to, on whole steps again."""
        if 1 << kept == len(self.numbers):
            return self
        means = self.numbers.astype(np.float64).reshape(1 << kept, -1).mean(axis=1)
        step = (means[-1] - means[0]) / LARGEST.get(kept, (1 << kept) - 1)
        numbers = np.rint((means - means[0]) / step).astype(np.uint8)
        return WholeLevels(numbers, (self.zero - float(means[0])) / step, self.unit * step)


def common_step(gaps: NDArray[np.float64]) -> float:
    """1 where all gaps are whole; else the largest step of which all are multiples, in whole 1/256, or 1 without one.

    >>> common_step(np.array([3.0, 4.0])), common_step(np.array([4.5, 7.5])), common_step(np.array([0.3]))
    (1.0, 1.5, 1.0)
    """
    fine = gaps * 256
    if not len(gaps) or np.all(gaps == np.rint(gaps)) or np.any(fine != np.rint(fine)):
        return 1.0
    return float(np.gcd.reduce(fine.astype(np.int64))) / 256


@dataclass(frozen=True)
class PackedRun:
    """Rows of one bit width: the widths of the digits in use, their regions, and what their codes stand for."""

    rows: int
    widths: tuple[int, ...]
    data: Bytes
    levels: WholeLevels


class PackedMatrix:
    """A matrix [rows, columns] in the kernel layout; the arrays it was made of are used where they are."""

    def __init__(
        self,
        shape: tuple[int, int],
        runs: tuple[PackedRun, ...],
        row_scales: NDArray[np.uint16],
        scale_codes: Bytes,
        form: ScaleForm,
        group: int = BLOCK,
        seed: int | None = None,
    ) -> None:
        """Takes parts as they are stored.

        Args:
            shape: rows and columns.
            runs: add up to the rows.
            row_scales: bfloat16 patterns [rows].
            scale_codes: as `pack_scale_codes` gives them.
            form: how scales are stored, in at most 8 bits.
            group: neighbouring columns that share a scale, a multiple of 32.
            seed: of the rotation of the columns, or None.

        Raises:
            ValueError: the parts do not fit together.
        """
        self.shape, self.runs, self.form, self.group, self.seed = shape, runs, form, group, seed
        self.row_scales, self.scale_codes = row_scales, scale_codes
        rows, columns = shape
        groups = -(-columns // group)
        if sum(run.rows for run in runs) != rows or len(row_scales) != rows or group % BLOCK:
            raise ValueError(f"the runs, scales or groups do not fit a matrix of {rows} rows")
        if any(not run.levels.suits(sum(run.widths)) for run in runs):
            raise ValueError("the levels of a run are not those of its bit width, or not evenly spaced from 6 bits on")
        if scale_codes.size != sum(panels(run.rows) for run in runs) * groups * form.bits + 1:
            raise ValueError("the scale codes do not have the size of the panels' groups and one byte")
        if columns % SPAN and any(_has_partners(run, columns) for run in runs):
            raise ValueError("a column without a partner in its run has the code of one")
        self.ranges: Floats | None = None
        self.handle = None if native is None else self._native(columns)

    def _native(self, columns: int) -> Any:
        assert native is not None
        matrix = native.PackedMatrix(
            self.shape[0], columns, self.group, self.row_scales, self.scale_codes, self.form.bits,
            _factors(self.form), self.seed is not None, self.seed or 0,
        )  # fmt: skip
        for run in self.runs:
            parts = list(regions(run.data, run.rows, columns, run.widths))
            levels = run.levels.looked_up(sum(run.widths))
            matrix.add(run.rows, LAYOUTS.index(run.widths), parts, levels, run.levels.zero, run.levels.unit)
        matrix.seal()
        return matrix

    def set_ranges(self, ranges: Floats | None) -> None:
        """Fixes the range of every block of activations [blocks], in the basis of the codes; None: its own largest.

        Raises:
            ValueError: there is not one for every 32 columns, or one is negative or not finite.
        """
        found = None if ranges is None else np.array(ranges, np.float32)
        if found is not None and found.shape != (-(-self.shape[1] // BLOCK),):
            raise ValueError("a packed matrix has a range for every 32 columns")
        if found is not None and not (np.isfinite(found) & (found >= 0)).all():
            raise ValueError("a range is not a finite magnitude")
        self.ranges = found
        if self.handle is not None:
            self.handle.set_ranges(found)

    def multiply(self, x: Floats, precise: bool = False) -> Floats:
        """Returns the matrix times every row of x [count, columns]: float32 [count, rows]."""
        vectors = np.ascontiguousarray(x, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.shape[1]:
            raise ValueError(f"a matrix of {self.shape[1]} columns multiplies vectors of as many numbers")
        if self.handle is None:
            return self.multiply_reference(vectors, precise)
        y = np.empty((len(vectors), self.shape[0]), np.float32)
        self.handle.multiply(vectors, precise, threads(), y)
        return y

    def row(self, index: int) -> Floats:
        """Returns one row of the matrix in the original basis: float32 [columns]."""
        if self.handle is None:
            row = self.matrix(index, index + 1)
            return np.asarray((row if self.seed is None else rotate_back(row, self.seed))[0])
        out = np.empty(self.shape[1], np.float32)
        self.handle.row(index, out)
        return out

    def multiply_reference(self, x: Floats, precise: bool = False) -> Floats:
        """`multiply` in NumPy: the same integers, sums in float64."""
        rotated = x if self.seed is None else rotate(x, self.seed)
        numbers, scales = quantize_activations(rotated, precise, self.ranges)
        y = np.empty((len(x), self.shape[0]), np.float64)
        factors = self._factors_by_group()
        row = 0
        for run, code in zip(self.runs, self._codes(), strict=True):
            here = slice(row, row + run.rows)
            v = run.levels.numbers[code].astype(np.float64)
            products = np.einsum("rbj,nbj->nrb", _by_block(v), numbers.astype(np.float64))
            sums = products - run.levels.zero * numbers.sum(2, dtype=np.float64)[:, None]
            y[:, here] = np.einsum("nrb,rb,nb->nr", sums, run.levels.unit * factors[here], scales.astype(np.float64))
            row += run.rows
        return (y * to_float32(self.row_scales)).astype(np.float32)

    def matrix(self, begin: int = 0, end: int | None = None) -> Floats:
        """Returns rows from begin to before end, still rotated: float32."""
        end = self.shape[0] if end is None else end
        levels = np.concatenate(
            [
                np.float32(r.levels.unit) * (r.levels.numbers[c].astype(np.float32) - np.float32(r.levels.zero))
                for r, c in zip(self.runs, self._codes(), strict=True)
            ]
        )
        scale = to_float32(self.row_scales)[:, None] * self._factors_by_group()
        whole = np.repeat(scale, BLOCK, axis=1)[:, : self.shape[1]] * levels
        return np.asarray(whole[begin:end], np.float32)

    def _codes(self) -> list[Bytes]:
        found = [unpack_tiles(run.data, run.rows, self.shape[1], run.widths) for run in self.runs]
        return [
            join(codes) if is_codebook(sum(run.widths), len(run.levels.numbers)) else codes
            for run, codes in zip(self.runs, found, strict=True)
        ]

    def _factors_by_group(self) -> Floats:
        """[rows, blocks]."""
        groups = -(-self.shape[1] // self.group)
        runs = [RowSpan(run.rows, sum(run.widths)) for run in self.runs]
        codes = unpack_scale_codes(self.scale_codes, runs, groups, self.form.bits)
        wide: Floats = np.repeat(_factors(self.form)[codes], self.group // BLOCK, axis=1)
        return wide[:, : -(-self.shape[1] // BLOCK)]


def _has_partners(run: PackedRun, columns: int) -> bool:
    """Returns True if the padding after the last column holds pair codes: kernels read padding, other readers do
    not.
    """
    if not is_codebook(sum(run.widths), len(run.levels.numbers)):
        return False
    if run.data.size < panels(run.rows) * -(-columns // BLOCK) * BLOCK * sum(run.widths):
        return False  # refused for its size
    wide = -(-columns // BLOCK) * BLOCK
    return bool(unpack_tiles(run.data, run.rows, wide, run.widths)[:, columns:].any())


def quantize_activations(x: Floats, precise: bool, ranges: Floats | None = None) -> tuple[NDArray[np.int16], Floats]:
    """Whole numbers [count, blocks, 32] and scales [count, blocks] of vectors [count, columns]; ranges are [blocks]."""
    most = np.float32(FINE if precise else COARSE)
    blocks = _by_block(x)
    finite = np.isfinite(blocks).all(axis=2)
    if ranges is None:
        top = np.abs(blocks).max(axis=2)
    else:
        top = np.broadcast_to(ranges, finite.shape)
        blocks = np.clip(blocks, -ranges[:, None], ranges[:, None])
    counts = finite & (top >= LEAST)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        inverse = np.where(counts, most / top, np.float32(0))
        numbers = np.where(counts[..., None], np.rint(blocks * inverse[..., None]), 0).astype(np.int16)
        scales = np.where(finite, np.where(counts, top / most, np.float32(0)), np.float32(np.nan))
    return numbers, scales.astype(np.float32)


def widths_of(storage: str, stored: int, used: int) -> tuple[int, ...]:
    """Returns the digits in use when only the `used` leading bits of codes of `stored` bits are.

    Raises:
        ValueError: no digit ends there.
    """
    widths: tuple[int, ...] = ()
    for width in WIDTHS[storage][stored]:
        widths += (width,)
        if sum(widths) == used:
            return widths
    raise ValueError(f"codes of {stored} bits stored as {storage} cannot be cut to {used}")


def bytes_before(runs: tuple[RowSpan, ...], columns: int) -> list[int]:
    """Byte offsets in the tiles at which each row span of a matrix begins, and the end."""
    return [tile_bytes(runs[:count], columns) for count in range(len(runs) + 1)]


def _by_block(x: NDArray[Any]) -> NDArray[Any]:
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % BLOCK)))
    return padded.reshape(len(x), padded.shape[1] // BLOCK, BLOCK)


def _factors(form: ScaleForm) -> Floats:
    powers = form.powers()
    return np.concatenate([powers, -powers]) if form.signed else powers
