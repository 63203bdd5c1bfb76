"""Quantize a matrix: grid x scale x rounding, group by group, into the parts that the checkpoint stores.

Minimises sum_ij h_ij (w_ij - s_g (l(p_ij) - z_g))^2 over scales s, zeros z and codes p, for each group g of
neighbouring columns in a row, with sensitivities h (docs/notation.md); or, with Babai rounding, the layer's loss in the
full metric (methods/layer.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mediant import discovery
from mediant.errors import PlanError
from mediant.forms.encoding import Encoded
from mediant.forms.quantize import outliers
from mediant.forms.quantize.form import Quantize
from mediant.forms.quantize.grid_info import GridInfo, grid_info
from mediant.kernels.bfloat16 import from_float32, to_float32
from mediant.kernels.bit_planes import pack
from mediant.kernels.dequantize import dequantize
from mediant.kernels.pairs import split
from mediant.methods.error_bounds import bounds, reach
from mediant.methods.groups import sensitivities, to_groups
from mediant.methods.layer import Layer
from mediant.methods.rounding import RoundedRows, Rounding, Setting
from mediant.values import Array, Certificate, RowSpan, TensorInfo

# Weights per pass: bounds the memory of the padded float32 copies to a few times 4 MB.
CHUNK = 1 << 20
# Weights that a fitted grid looks at.
SAMPLE = 1 << 18
# Rows on which factors of columns are tried.
BALANCED_ROWS = 128

Floats = NDArray[np.float32]
Tables = Mapping[int, NDArray[np.float64]]


def encode(layer: Layer, plan: Quantize, info: TensorInfo | None = None, hint: object = None) -> Encoded:
    """Returns the codes and scales of a layer's matrix; errors as for `quantize`."""
    return quantize(layer, plan)


def quantize(layer: Layer, plan: Quantize, tables: Tables | None = None) -> Encoded:
    """Quantizes a layer's matrix [rows, columns] by its plan; `tables` are the grid's by bit width, if they are known.

    Raises:
        PlanError: the runs do not add up to the rows, or methods that do not go together.
    """
    if plan.scales_columns:
        return _balanced(layer, plan)
    if plan.outliers:
        return _beside_outliers(layer, plan)
    return _quantized(layer, plan, tables)


def _balanced(layer: Layer, plan: Quantize) -> Encoded:
    """With columns divided by factors that are stored and that reading multiplies by."""
    inner = dataclasses.replace(plan, basis={})
    sample = layer.rows(np.unique(np.linspace(0, len(layer.matrix) - 1, BALANCED_ROWS).round().astype(int)))
    most = max(plan.runs, key=lambda run: run.rows).bits
    trial = dataclasses.replace(inner, runs=(RowSpan(len(sample.matrix), most),))

    def loss(factors: Floats) -> float:
        return sample.loss(quantize(sample.scaled(factors), trial).matrix * factors)

    stored = from_float32(discovery.make("equalization", plan.basis["by"]).factors(layer, loss))
    factors = to_float32(stored)
    found = quantize(layer.scaled(factors), inner)
    decoded = found.matrix * factors
    return Encoded(found.parts | {"column_scales": stored}, decoded, layer.certified(found.certificate, decoded))


def _beside_outliers(layer: Layer, plan: Quantize) -> Encoded:
    """With the most sensitive columns as float16 (outliers.py)."""
    plain = dataclasses.replace(plan, outliers=0, rounding={"name": "nearest"})
    kept = outliers.most_sensitive(layer, quantize(layer, plain).matrix, plan.outliers)
    mask = outliers.mask(kept, layer.matrix.shape[1])
    found = quantize(outliers.without(layer, kept), dataclasses.replace(plan, outliers=0))
    values = outliers.values(layer, kept, found.matrix)
    decoded = found.matrix.copy()
    decoded[:, mask] = values
    parts = found.parts | {"outlier_mask": pack(mask.astype(np.uint8), 1), "outliers": values}
    return Encoded(parts, decoded, layer.certified(found.certificate, decoded))


def _quantized(layer: Layer, plan: Quantize, given: Tables | None) -> Encoded:
    rows, columns = layer.matrix.shape
    if sum(run.rows for run in plan.runs) != rows or any(run.rows < 1 for run in plan.runs):
        raise PlanError(f"The runs of a matrix of {rows} rows add up to {sum(r.rows for r in plan.runs)}.")
    form = grid_info(plan.grid, plan.runs)
    tables = given or {bits: levels(layer, plan, bits) for bits in sorted({r.bits for r in plan.runs})}
    parts: dict[str, list[Array]] = {}
    decoded = np.empty_like(layer.matrix)
    error = Errors(layer)
    start = 0
    for run in plan.runs:
        table = tables[run.bits]
        codes = np.empty((run.rows, columns), np.uint8)
        zeros = []
        flat = table.reshape(-1).astype(np.float32)
        for begin, end in _chunks(layer, start, run.rows):
            where = slice(start + begin, start + end)
            piece = _chunk(layer.rows(where), plan, table)
            codes[begin:end] = piece.codes
            decoded[where] = dequantize(piece.codes, piece.scale, piece.zero, flat, plan.group)
            error.add(layer.rows(where), piece, table, plan.group)
            for name, part in piece.stored.items():
                parts.setdefault(name, []).append(part)
            zeros.append(piece.zero)
        if table.ndim == 2:
            codes = split(codes)
        parts.setdefault(plan.layout.part, []).append(plan.layout.pack(codes, run.bits))
        if form.zero_point:
            parts.setdefault("zeros", []).append(pack(np.concatenate(zeros).astype(np.uint8).reshape(-1), run.bits))
        start += run.rows
    whole = {name: np.concatenate(pieces) for name, pieces in parts.items()}
    if "scale_codes" in whole:
        whole["scale_codes"] = plan.layout.pack_scale_codes(whole["scale_codes"], plan.runs, plan.scale_bits)
    # Also those at which leading bits can be read alone.
    stored_tables = {bits: tables[bits] if bits in tables else levels(layer, plan, bits) for bits in form.counts}
    whole |= tables_as_stored(stored_tables, form)
    return Encoded(whole, decoded, error.certificate(decoded, {run.bits: tables[run.bits] for run in plan.runs}))


def tables_as_stored(tables: Tables, form: GridInfo) -> dict[str, Array]:
    """Returns the parts that hold the levels of every bit width that is read."""
    return {f"levels.{bits}": _filled(tables[bits].reshape(-1), count) for bits, count in form.counts.items()}


def _filled(table: NDArray[np.float64], count: int) -> Floats:
    """Returns a table as stored; one fitted to fewer distinct values than it has room for is filled up with unused
    levels.
    """
    unused = table[-1] + np.arange(1, count - len(table) + 1)
    return np.concatenate([table, unused]).astype(np.float32)


def levels(layer: Layer, plan: Quantize, bits: int) -> NDArray[np.float64]:
    """Returns the grid's levels [count], or points [2, count], at a bit width; a fitted grid sees a sample of the
    matrix.
    """
    stride = max(1, layer.matrix.size // SAMPLE)
    sample = layer.matrix[::stride]
    groups = to_groups(sample, plan.group)
    peaks = np.abs(groups).max(1, keepdims=True)
    h = sensitivities(layer.statistics, slice(0, len(layer.matrix), stride))
    weights = None if h is None else to_groups(np.broadcast_to(h, sample.shape), plan.group).ravel()
    grid = discovery.make("grids", plan.grid)
    table: NDArray[np.float64] = grid.levels(bits, (groups / np.where(peaks == 0, 1, peaks)).ravel(), weights)
    # Stored as float32, so the error is measured with what will be read back.
    return table.astype(np.float32).astype(np.float64)


def _chunks(layer: Layer, start: int, rows: int) -> Iterator[tuple[int, int]]:
    """Yields rows to be done at once, counted from `start`, none across a cut between metrics."""
    step = max(1, CHUNK // layer.matrix.shape[1])
    cuts = [cut - start for cut in layer.cuts() if 0 < cut - start < rows]
    for first, last in pairwise([0, *cuts, rows]):
        yield from ((begin, min(last, begin + step)) for begin in range(first, last, step))


def _chunk(layer: Layer, plan: Quantize, table: NDArray[np.float64]) -> RoundedRows:
    rounding: Rounding = discovery.make("rounding", plan.rounding)
    if table.ndim == 2 and not getattr(rounding, "takes_pairs", False):
        raise PlanError("A grid of pairs goes with Babai rounding of columns in their natural order.")
    grid, scale = discovery.make("grids", plan.grid), discovery.make("scales", plan.scale)
    return rounding.round(layer, table, Setting(grid, scale, plan.group, plan.scale_form))


class Errors:
    """What a certificate states of a layer's errors."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.outside = 0
        self.worst = self.expected = 0.0

    def add(self, layer: Layer, piece: RoundedRows, table: NDArray[np.float64], group: int) -> None:
        """Takes up some rows of the layer."""
        known = bounds(layer, piece.factored, piece.scale, piece.codes, table, group)
        self.worst += known.worst
        self.expected += known.expected
        if piece.outside is None:
            self.count_clipped(layer.matrix, piece.scale, piece.zero, table, group)
        else:
            self.outside += piece.outside

    def count_clipped(
        self, matrix: Floats, scale: Floats, zero: Floats, table: NDArray[np.float64], group: int
    ) -> None:
        """Counts weights [rows, columns] beyond the grid's ends; scales and zeros are [rows, groups]."""
        columns = matrix.shape[1]
        s = np.repeat(scale, group, axis=1)[:, :columns]
        z = np.repeat(zero, group, axis=1)[:, :columns]
        with np.errstate(divide="ignore", invalid="ignore"):
            position = np.where(s == 0, z + table[0], matrix / s + z)
        most = reach(table)
        self.outside += int(((position < table[0] - most) | (position > table[-1] + most)).sum())

    def certificate(self, decoded: Floats, tables: dict[int, NDArray[np.float64]]) -> Certificate:
        """Errors of what was decoded, as shares."""
        size, zeroing = self.layer.matrix.size, self.layer.zeroing
        return Certificate(
            relative_error=self.layer.relative_error(decoded),
            weighted_error=self.layer.weighted_error(decoded),
            bound=max(map(reach, tables.values())),
            clipped=self.outside / size if size else 0.0,
            worst_error=self.worst / zeroing if zeroing else 0.0,
            expected_error=self.expected / zeroing if zeroing else 0.0,
        )
