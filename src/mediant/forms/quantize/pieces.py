"""A matrix too large to be taken whole, encoded some rows at a time: the same parts as of the whole matrix.

Rows are rounded alone, in chunks that begin where those of the whole matrix do, so every part has the same bytes. Of
the certificate, sums are taken in another order. Memory: a few times `PIECE` weights, and the parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mediant.forms import Encoding
from mediant.forms.quantize.encode import CHUNK, SAMPLE, Floats, Tables, levels, quantize, tables_as_stored
from mediant.forms.quantize.form import Quantize
from mediant.forms.quantize.grid_info import grid_info
from mediant.kernels.rotation import rotate
from mediant.kernels.tiles import PANEL, WIDTHS, regions
from mediant.methods.layer import Doubles, Layer, Term, prepare, rows_of
from mediant.values import Array, Certificate, LayerStatistics, RowSpan, TensorInfo

# Weights from which a matrix is taken in pieces, and of one piece.
LARGE, PIECE = 1 << 25, 1 << 22

Reader = Callable[[int, int], Floats]
"""Gives rows `begin` to `end` of the matrix in the model's own basis."""


def suits(plan: object, info: TensorInfo) -> bool:
    """Returns True if a tensor is large enough, and its plan such, that it is encoded in pieces."""
    return (
        isinstance(plan, Quantize)
        and info.size >= LARGE
        and info.layout == "out_in"
        and plan.layout.part == "tiles"
        and not plan.scales_columns
        and not plan.outliers
    )


def encode_in_pieces(
    info: TensorInfo, plan: Quantize, read: Reader, statistics: LayerStatistics | None, hessian: Doubles | None
) -> Encoding:
    """Returns the encoding of a tensor whose rows are read when they are needed; `suits` says which.

    Errors are as for `quantize`.
    """
    whole = _Whole.of(info, plan, read, statistics, hessian)
    joined, form = _Joined(plan), grid_info(plan.grid, plan.runs)
    tables = whole.tables(sorted({*form.counts, *(run.bits for run in plan.runs)}))
    for begin, end, bits in _cuts(plan.runs, info.matrix_shape[1]):
        layer = whole.rows(begin, end)
        found = quantize(layer, plan.with_truncations(()).with_runs((RowSpan(end - begin, bits),)), tables)
        joined.add(found.parts, RowSpan(end - begin, bits), info.matrix_shape[1], layer, found.certificate)
    return Encoding(info, plan, joined.parts() | tables_as_stored(tables, form), joined.certificate())


def _cuts(runs: Sequence[RowSpan], columns: int) -> Iterator[tuple[int, int, int]]:
    """Begin, end and bit width of every piece: whole panels and whole chunks of a run, but for its last."""
    chunk = max(1, CHUNK // columns)
    step = math.lcm(chunk, PANEL)
    step *= max(1, PIECE // (step * columns))
    start = 0
    for run in runs:
        for begin in range(0, run.rows, step):
            yield start + begin, start + min(run.rows, begin + step), run.bits
        start += run.rows


@dataclass(frozen=True)
class _Whole:
    """The layer of the whole matrix, but for its weights."""

    plan: Quantize
    read: Reader
    layer: Layer

    @classmethod
    def of(
        cls,
        info: TensorInfo,
        plan: Quantize,
        read: Reader,
        statistics: LayerStatistics | None,
        hessian: Doubles | None,
    ) -> _Whole:
        rows, columns = info.matrix_shape
        # Takes the memory of one number.
        nothing = np.broadcast_to(np.float32(0), (rows, columns))
        if statistics is None:
            layer = Layer(nothing, (Term(np.ones(rows), np.ones(columns)),))
        else:
            layer = prepare(nothing, None, statistics, hessian)
        if plan.rotation is not None:
            layer = Layer(nothing, tuple(term.rotated(plan.rotation) for term in layer.terms))
        return cls(plan, read, layer)

    def rows(self, begin: int, end: int) -> Layer:
        """Returns the layer of some rows, with their weights."""
        matrix, where = self.read(begin, end), slice(begin, end)
        if self.plan.rotation is not None:
            matrix = rotate(matrix, self.plan.rotation)
        terms = tuple(Term(term.rows[where], term.columns) for term in self.layer.terms)
        statistics = self.layer.statistics
        return Layer(matrix, terms, None if statistics is None else rows_of(statistics, where), self.layer)

    def tables(self, bit_widths: Sequence[int]) -> Tables:
        """Returns the grid's levels, from the rows that a whole matrix shows them."""
        rows, columns = self.layer.matrix.shape
        shown = range(0, rows, max(1, rows * columns // SAMPLE))
        pieces = [self.rows(row, row + 1) for row in shown]
        statistics = self.layer.statistics
        chosen = None if statistics is None else rows_of(statistics, np.asarray(shown))
        sample = Layer(np.concatenate([piece.matrix for piece in pieces]), self.layer.terms, chosen)
        return {bits: levels(sample, self.plan, bits) for bits in bit_widths}


class _Joined:
    """Parts and certificates of pieces, as those of the whole."""

    def __init__(self, plan: Quantize):
        self._plan = plan
        self._digits: list[tuple[RowSpan, list[list[Array]]]] = []
        self._scales: dict[str, list[Array]] = {}
        self._found: list[tuple[Certificate, float, float, int]] = []
        self._rows_left = 0

    def add(self, parts: dict[str, Array], run: RowSpan, columns: int, layer: Layer, certificate: Certificate) -> None:
        """Takes up the next piece."""
        if not self._rows_left:
            whole = self._plan.runs[len(self._digits)]
            self._rows_left = whole.rows
            self._digits.append((whole, [[] for _ in self._widths(run)]))
        self._rows_left -= run.rows
        pieces = regions(parts["tiles"], run.rows, columns, self._widths(run))
        for digit, region in zip(self._digits[-1][1], pieces, strict=True):
            digit.append(region)
        for name in ("row_scales", "scale_codes", "scales"):
            if name in parts:
                # A zero byte follows the scale codes of a matrix.
                self._scales.setdefault(name, []).append(parts[name][:-1] if name == "scale_codes" else parts[name])
        energy = float(np.square(layer.matrix, dtype=np.float64).sum())
        self._found.append((certificate, energy, layer.zeroing, layer.matrix.size))

    def _widths(self, run: RowSpan) -> tuple[int, ...]:
        return WIDTHS[self._plan.storage][run.bits]

    def parts(self) -> dict[str, Array]:
        """Returns the parts of the whole, but for the tables of levels."""
        digits = [region for _, found in self._digits for digit in found for region in digit]
        scales = {name: np.concatenate(found) for name, found in self._scales.items()}
        if "scale_codes" in scales:
            scales["scale_codes"] = np.append(scales["scale_codes"], np.uint8(0))
        return {"tiles": np.concatenate(digits), **scales}

    def certificate(self) -> Certificate:
        """Shares of the whole, from those of the pieces."""
        certificates, energies, zeroings, sizes = zip(*self._found, strict=True)

        def mean(name: str, weights: Sequence[float]) -> float:
            total = sum(weights)
            values = [getattr(certificate, name) for certificate in certificates]
            return sum(v * w for v, w in zip(values, weights, strict=True)) / total if total else 0.0

        return Certificate(
            relative_error=mean("relative_error", energies),
            weighted_error=mean("weighted_error", zeroings),
            bound=max(certificate.bound for certificate in certificates),
            clipped=mean("clipped", sizes),
            worst_error=mean("worst_error", zeroings),
            expected_error=mean("expected_error", zeroings),
        )
