"""Codes of a fixed length in a grid's levels, with a scale for every group of neighbouring columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from mediant import discovery
from mediant.checked_fields import checked_fields
from mediant.errors import PlanError
from mediant.forms import Arrays, Bytes, Codes, Coding, Floats, Side, Views, Words
from mediant.forms.parts import Parts, matrix_shape
from mediant.forms.quantize import decoding, native
from mediant.forms.quantize.grid_info import GridInfo, grid_info
from mediant.forms.quantize.settings import Settings
from mediant.kernels.bit_planes import packed_bytes
from mediant.kernels.pairs import is_codebook
from mediant.kernels.scale_codes import FULL
from mediant.kernels.tiles import BLOCK
from mediant.values import Array, RowSpan, TensorInfo, Truncation

# Of recipes that rotate.
ROTATION_SEED = 0


@dataclass(frozen=True)
class Quantize(Settings):
    """Grid x scale x rounding. The fields are those of `Settings`."""

    method: ClassVar[str] = "quantize"
    coding: ClassVar[Coding | None] = "fixed"
    side_fields: ClassVar[tuple[str, ...]] = ("grid",)
    # Said only where they differ from the default, since a manifest says it for every tensor.
    usual: ClassVar[tuple[str, ...]] = ("scale_signed", "scale_steps", "storage", "truncations", "basis", "outliers")

    def check(self, info: TensorInfo) -> None:
        """Refuses a tensor that it does not fit, or a method that does not exist."""
        super().check(info)
        discovery.make("scales", self.scale)
        discovery.make("rounding", self.rounding)
        if self.scales_columns:
            discovery.make("equalization", self.basis["by"])

    def needs(self) -> frozenset[str]:
        """Returns statistics that the rounding needs."""
        return discovery.needs("rounding", self.rounding)

    def with_runs(self, runs: tuple[RowSpan, ...]) -> Quantize:
        """With other bit widths."""
        return replace(self, runs=runs)

    def with_truncations(self, truncations: tuple[Truncation, ...]) -> Quantize:
        """With these truncations if it is stored as nested."""
        return replace(self, truncations=truncations) if self.storage == "nested" else self

    def stored_row(self, info: TensorInfo) -> tuple[int, int]:
        """Returns the layout's size of a row of codes."""
        return self.layout.stored_row(info.matrix_shape[1])

    def shared_bytes(self) -> int:
        """Returns the bytes of its tables of levels."""
        return 4 * sum(grid_info(self.grid, self.runs).counts.values())

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON form, runs as pairs of rows and bits, truncations as pairs of bits and a place."""
        data = super().to_dict() | {"runs": [[r.rows, r.bits] for r in self.runs]}
        return data | ({"truncations": [[d.bits, d.place] for d in self.truncations]} if self.truncations else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Quantize:
        """Returns the inverse of `to_dict`."""
        fields = checked_fields(cls, dict(data))
        runs = tuple(RowSpan(*run) for run in _pairs(fields, "runs", "whole numbers, rows and bits"))
        truncations = tuple(
            Truncation(*cut) for cut in _pairs(fields, "truncations", "whole numbers, bits and a place")
        )
        widths = [max((run.bits for run in runs), default=0), *(cut.bits for cut in truncations), 0]
        if truncations and (fields.get("storage") != "nested" or widths != sorted({*widths}, reverse=True)):
            raise ValueError("the truncations are not to ever fewer bits of a nested tensor")
        return cls(**fields | {"runs": runs, "truncations": truncations})

    @classmethod
    def of_recipe(cls, settings: Mapping[str, Any], runs: tuple[RowSpan, ...]) -> Quantize:
        """Returns the fields of the same names; `equalize` and `rotate` say the basis."""
        basis = {"name": "rotation", "seed": ROTATION_SEED} if settings["rotate"] else {}
        basis = {"name": "columns", "by": dict(settings["equalize"])} if settings["equalize"] else basis
        return replace(super().of_recipe(settings, runs), runs=runs, basis=basis)

    def side(self, info: TensorInfo) -> GridInfo:
        """Returns the description of the grid that is stored in the file."""
        return grid_info(self.grid, self.runs)

    def side_to_dict(self, side: GridInfo) -> dict[str, Any]:
        """Returns the grid."""
        return {"grid": side.to_dict()}

    def side_from_dict(self, info: TensorInfo, given: Mapping[str, Any], parts: Parts) -> GridInfo:
        """Returns the inverse of `side_to_dict`."""
        return GridInfo.from_dict(given["grid"], self.runs, parts)

    def parts(self, info: TensorInfo, side: Side = None) -> Parts:
        """Codes, scales, zeros, tables of levels, outliers, factors of columns."""
        rows, columns = matrix_shape(info)
        self._check(info, rows)
        side = grid_info(self.grid, self.runs) if side is None else side
        self._check_storage(info, side)
        groups = -(-columns // self.group)
        codes = sum(self.layout.code_bytes(run, columns) for run in self.runs)
        parts: Parts = {self.layout.part: ("uint8", (codes,))}
        if self.scale_bits == FULL:
            parts["scales"] = ("bfloat16", (rows, groups))
        else:
            parts["row_scales"] = ("bfloat16", (rows,))
            parts["scale_codes"] = ("uint8", (self.layout.scale_code_bytes(self.runs, groups, self.scale_bits),))
        if side.zero_point:
            parts["zeros"] = ("uint8", (sum(packed_bytes(run.rows * groups, run.bits) for run in self.runs),))
        parts |= {f"levels.{bits}": ("float32", (count,)) for bits, count in sorted(side.counts.items())}
        if self.outliers:
            parts["outlier_mask"] = ("uint8", (packed_bytes(columns, 1),))
            parts["outliers"] = ("float16", (rows, self.outliers))
        return parts | ({"column_scales": ("bfloat16", (columns,))} if self.scales_columns else {})

    def matrix(self, info: TensorInfo, arrays: Arrays, side: Side, planes: int | None = None) -> Floats:
        """Levels times scales, outliers in their place, in the model's own basis."""
        return decoding.matrix(self, info, arrays, self.side(info) if side is None else side, planes)

    def verify_sound(self, info: TensorInfo, arrays: Arrays, side: Side) -> None:
        """Checks that every code has a level, and no scale makes a weight infinite."""
        decoding.verify(self, info, arrays, side)

    def verify_mapped(self, info: TensorInfo, arrays: Arrays, side: Side) -> None:
        """Scales and levels alone."""
        decoding.verify_scales(self, info, arrays, side)

    def with_row_gains(self, info: TensorInfo, arrays: Arrays, gains: Floats) -> dict[str, Array]:
        """Returns the scales of every row, and its outliers, times its gain."""
        return decoding.with_row_gains(arrays, gains)

    def codes(self, info: TensorInfo, arrays: Arrays, side: Side) -> Codes:
        """Returns all codes, with what makes weights of them."""
        grid: GridInfo = self.side(info) if side is None else side
        if any(is_codebook(run.bits, grid.counts.get(run.bits, 0)) for run in self.runs):
            raise PlanError(
                f"The codes of {info.name!r} are in pairs, which are not trained; take the grid gaussian_int."
            )
        return Codes(
            tuple(decoding.levels(arrays, grid, run.bits) for run in self.runs),
            tuple(decoding.run_codes(self, info, arrays)),
            decoding.scales(self, info, arrays),
            decoding.zeros(self, info, arrays) if grid.zero_point else None,
            self.group,
            self.rotation,
        )

    def with_codes(self, info: TensorInfo, arrays: Arrays, codes: Sequence[Bytes]) -> dict[str, Array]:
        """Other codes in the same layout."""
        return {**arrays, self.layout.part: decoding.packed(self, codes)}

    def other_coding(self, info: TensorInfo, arrays: Arrays, side: Side) -> int:
        """Counts the bytes that coding at the entropy of each row span's codes would add."""
        return decoding.entropy_change(self, info, arrays)

    def mapped(self, info: TensorInfo) -> bool:
        """Returns True for tiles of a matrix that is stored with its outputs first."""
        return self.packs and info.layout == "out_in"

    def views(self, info: TensorInfo, arrays: Arrays, side: Side) -> Views | None:
        """Tiles as they are, and their leading bits where these are stored apart."""
        return native.views(self, info, arrays, side) if self.mapped(info) else None

    def words(self) -> Words:
        """Returns the grid with its group and bits of a scale: `uniform g64 s6`."""
        grid = self.grid.get("name")
        methods = " × ".join(str(spec.get("name", "?")) for spec in (self.grid, self.scale, self.rounding))
        fields = {"grid": dict(self.grid), "group": self.group, "scale_bits": self.scale_bits}
        runs = [[run.rows, run.bits] for run in self.runs]
        return Words(
            f"{grid} g{self.group} s{self.scale_bits}", methods, _bit_width(self.runs), fields | {"runs": runs}
        )

    def _check(self, info: TensorInfo, rows: int) -> None:
        if sum(run.rows for run in self.runs) != rows or any(run.rows < 1 for run in self.runs):
            raise PlanError(f"The runs of {info.name!r} do not add up to its {rows} rows.")
        if not all(1 <= run.bits <= 8 for run in self.runs):
            raise PlanError(f"A run of {info.name!r} has a bit width outside 1 to 8 bits.")
        if self.group < 1:
            raise PlanError(f"The group of {info.name!r} is {self.group}; it takes a whole number from 1.")
        try:
            _ = self.scale_form
        except ValueError as problem:
            raise PlanError(f"The scales of {info.name!r} cannot be stored: {problem}.") from None
        columns = info.matrix_shape[1]
        if not 0 <= self.outliers < columns:
            raise PlanError(f"The outliers of {info.name!r} are {self.outliers}; its columns are {columns}.")
        if self.basis and not _is_rotation(self.basis) and not _is_equalized(self.basis):
            raise PlanError(
                f"The basis of {info.name!r} is {dict(self.basis)}; it is empty, a rotation with a seed, or 'columns' "
                "with 'by'."
            )

    def _check_storage(self, info: TensorInfo, grid: GridInfo) -> None:
        if self.storage == "nested" and any(is_codebook(bits, count) for bits, count in grid.counts.items()):
            raise PlanError(f"The tensor {info.name!r} cannot be stored as nested with a codebook of pairs.")
        if self.storage != "rows" and (self.group % BLOCK or self.scale_bits > 8 or grid.zero_point):
            raise PlanError(
                f"The tensor {info.name!r} cannot be stored as {self.storage}: that takes groups of a multiple of "
                f"{BLOCK} columns, scales of at most 8 bits, and no zero points."
            )


def _bit_width(runs: Sequence[RowSpan]) -> str:
    """Returns one bit width, or the range and the mean over rows."""
    widths = [run.bits for run in runs]
    if not widths or min(widths) == max(widths):
        return str(widths[0]) if widths else "–"
    mean = sum(run.rows * run.bits for run in runs) / sum(run.rows for run in runs)
    return f"{min(widths)}–{max(widths)} ({mean:.2f})"


def _pairs(fields: Mapping[str, Any], name: str, wanted: str) -> Iterable[list[int]]:
    pairs: Iterable[list[int]] = fields.get(name, ())
    if any(type(pair) is not list or [type(number) for number in pair] != [int, int] for pair in pairs):
        raise ValueError(f"the {name} are not pairs of {wanted}")
    return pairs


def _is_rotation(basis: Mapping[str, Any]) -> bool:
    seed = basis.get("seed")
    return set(basis) == {"name", "seed"} and basis["name"] == "rotation" and type(seed) is int and 0 <= seed < 1 << 63


def _is_equalized(basis: Mapping[str, Any]) -> bool:
    return set(basis) == {"name", "by"} and basis["name"] == "columns" and isinstance(basis["by"], Mapping)


FORM = Quantize
_ROWS = Quantize(
    grid={"name": "uniform"}, scale={"name": "exact"}, rounding={"name": "babai"},
    runs=(RowSpan(5, 3), RowSpan(11, 4)), group=16,
)  # fmt: skip
_TILES = replace(_ROWS, grid={"name": "gaussian_int"}, group=32, scale_bits=4, storage="tiles")
EXAMPLES = (
    _ROWS,
    replace(_ROWS, basis={"name": "rotation", "seed": 3}, outliers=0, scale_signed=False, scale_steps=4),
    replace(_ROWS, grid={"name": "uniform", "kind": "zero_point"}, rounding={"name": "nearest"}, scale_bits=16),
    replace(_ROWS, outliers=3),
    replace(_ROWS, rounding={"name": "nearest"}, basis={"name": "columns", "by": {"name": "awq"}}),
    _TILES,
    replace(_TILES, grid={"name": "vq2d"}, runs=(RowSpan(16, 2),), basis={"name": "rotation", "seed": 0}),
    replace(
        _TILES, grid={"name": "nested"}, rounding={"name": "nested"}, storage="nested", truncations=(Truncation(3, 1),)
    ),
)
