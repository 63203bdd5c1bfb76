"""Few weights of a matrix, cast or quantized, and where they are; all others are 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from mediant import discovery
from mediant.checked_fields import checked_fields
from mediant.errors import CheckpointError, PlanError
from mediant.forms import Arrays, Floats, Form, Ledger, Side, Views, Words
from mediant.forms.cast.form import Cast
from mediant.forms.parts import NUMBER_DTYPES, Parts, matrix_shape
from mediant.forms.quantize.form import Quantize
from mediant.forms.quantize.grid_info import GridInfo
from mediant.kernels import native
from mediant.kernels.block_sparse_matrix import BlockSparse
from mediant.kernels.sparse_positions import Positions
from mediant.values import Array, RowSpan, TensorInfo


@dataclass(frozen=True)
class SparseSide:
    """Side information: where the weights are, and their grid if any."""

    positions: Positions
    grid: GridInfo | None = None


@dataclass(frozen=True)
class Sparse(Form):
    """The weights of highest `score` that fit the `pattern`, stored by `values`, which counts those kept in a row.

    Quantized values have no other basis, outliers or storage than rows. In a plan, the fields of `values` stand beside
    `pattern` and `score`.
    """

    method: ClassVar[str] = "sparse"
    ledger: ClassVar[Ledger] = "pruned"
    asked_by: ClassVar[str] = "pattern"

    values: Quantize | Cast = field(default_factory=Cast)
    pattern: Mapping[str, Any] = field(default_factory=dict)
    score: Mapping[str, Any] = field(default_factory=dict)

    @property
    def runs(self) -> tuple[RowSpan, ...]:
        """Row spans of the values, with their bit widths."""
        return self.values.runs

    @property
    def side_fields(self) -> tuple[str, ...]:  # type: ignore[override]
        """Positions, and the grid of quantized values."""
        return ("positions", *self.values.side_fields)

    def check(self, info: TensorInfo) -> None:
        """Refuses a tensor that it does not fit, or a method that does not exist."""
        super().check(info)
        discovery.make("pruning.scores", self.score)
        self.values.check(self._stored(info, self.positions(info)))

    def needs(self) -> frozenset[str]:
        """Returns statistics that the score and the form of the values need."""
        return discovery.needs("pruning.scores", self.score) | self.values.needs()

    def with_runs(self, runs: tuple[RowSpan, ...]) -> Sparse:
        """With other bit widths of its values, where these are quantized."""
        return self if isinstance(self.values, Cast) else replace(self, values=self.values.with_runs(runs))

    def stored_row(self, info: TensorInfo) -> tuple[int, int]:
        """Returns the weights kept in a row."""
        return self.positions(info).row, 1

    def shared_bytes(self) -> int:
        """Returns the shared bytes of the values' form."""
        return self.values.shared_bytes()

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON form."""
        return self.values.to_dict() | {
            "method": self.method, "pattern": dict(self.pattern), "score": dict(self.score),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Sparse:
        """Returns the inverse of `to_dict`."""
        own = {name: value for name, value in data.items() if name in ("pattern", "score")}
        values = {name: value for name, value in data.items() if name not in own}
        kind = Quantize if "grid" in values else Cast
        return cls(values=kind.from_dict(values), **checked_fields(cls, own))

    @classmethod
    def of_recipe(cls, settings: Mapping[str, Any], runs: tuple[RowSpan, ...]) -> Sparse:
        """Quantized values without a basis, outliers and tiles; pattern and score as they are."""
        values = replace(Quantize.of_recipe(settings, runs), basis={}, outliers=0, storage="rows")
        return cls(values, settings["pattern"], settings["score"])

    def positions(self, info: TensorInfo) -> Positions:
        """Returns the positions of the weights, by the pattern.

        Raises:
            PlanError: there is no such pattern, or it does not fit the matrix.
        """
        rows, columns = matrix_shape(info)
        pattern = discovery.make("pruning.patterns", self.pattern)
        try:
            found: Positions = pattern.positions(rows, columns)
        except ValueError as problem:
            raise PlanError(f"The pattern {dict(self.pattern)} does not fit {info.name!r}: {problem}.") from None
        return found

    def side(self, info: TensorInfo) -> SparseSide:
        """Returns positions by the pattern, and the grid."""
        return SparseSide(self.positions(info), self.values.side(info))

    def side_to_dict(self, side: SparseSide) -> dict[str, Any]:
        """Positions, and the grid of quantized values."""
        return {"positions": side.positions.to_dict(), **(self.values.side_to_dict(side.grid) if side.grid else {})}

    def side_from_dict(self, info: TensorInfo, given: Mapping[str, Any], parts: Parts) -> SparseSide:
        """Returns the inverse of `side_to_dict`."""
        grid = self.values.side_from_dict(info, given, parts)
        return SparseSide(Positions.from_dict(*matrix_shape(info), given["positions"]), grid)

    def parts(self, info: TensorInfo, side: SparseSide | None = None) -> Parts:
        """Positions, then what the values take."""
        matrix_shape(info)
        positions = self.positions(info) if side is None else side.positions
        v = self.values
        if isinstance(v, Quantize) and (v.basis or v.outliers or v.storage != "rows"):
            raise PlanError(
                f"The tensor {info.name!r} is sparse, so it has no other basis, outliers or storage than rows."
            )
        if isinstance(v, Cast) and v.dtype not in NUMBER_DTYPES:
            raise PlanError(f"The weights kept of {info.name!r} take {', '.join(NUMBER_DTYPES)}, not {v.dtype!r}.")
        values = v.parts(self._stored(info, positions), None if side is None else side.grid)
        return {"positions": ("uint8", (positions.nbytes,)), **values}

    def _stored(self, info: TensorInfo, positions: Positions) -> TensorInfo:
        """Returns the kept weights as a tensor of their own: a list of numbers, or a matrix of what each row keeps."""
        if isinstance(self.values, Cast):
            return TensorInfo(info.name, (positions.stored,), info.dtype, info.role)
        return compact_info(info, positions)

    def matrix(self, info: TensorInfo, arrays: Arrays, side: SparseSide | None, planes: int | None = None) -> Floats:
        """Returns the kept weights in their places."""
        side = side or self.side(info)
        mask = side.positions.decode(arrays["positions"])
        found = np.zeros(mask.shape, np.float32)
        found[mask] = self.values.decode(self._stored(info, side.positions), arrays, side.grid).reshape(-1)
        return found

    def verify_sound(self, info: TensorInfo, arrays: Arrays, side: SparseSide | None) -> None:
        """Decodes positions, and verifies what is kept."""
        side = side or self.side(info)
        try:
            side.positions.decode(arrays["positions"])
        except ValueError as problem:
            raise CheckpointError(f"The tensor {info.name!r} cannot be decoded: {problem}.") from None
        self.values.verify_sound(self._stored(info, side.positions), arrays, side.grid)

    def with_row_gains(self, info: TensorInfo, arrays: Arrays, gains: Floats) -> dict[str, Array]:
        """Returns the scales of every row, or its weights, times its gain."""
        positions = self.positions(info)
        of_values = gains
        if isinstance(self.values, Cast):
            of_values = gains.reshape(-1)[np.nonzero(positions.decode(arrays["positions"]))[0]]
        changed = self.values.with_row_gains(self._stored(info, positions), arrays, of_values)
        return {**arrays, **changed}

    def in_blocks(self, info: TensorInfo, side: Side) -> bool:
        """Returns True for whole blocks, equally many in each row, the rows of the matrix being its outputs."""
        where = None if side is None else side.positions
        return where is not None and info.layout == "out_in" and where.kind == "blocks" and where.row > 0

    def blocks(self, info: TensorInfo, arrays: Arrays, side: SparseSide | None) -> BlockSparse:
        """Returns the blocks that are kept."""
        positions = (side or self.side(info)).positions
        mask = positions.decode(arrays["positions"])
        return BlockSparse.of(self.matrix(info, arrays, side), mask, positions.height, positions.width)

    def views(self, info: TensorInfo, arrays: Arrays, side: Side) -> Views | None:
        """Returns the blocks that are kept, in float32."""
        if not self.in_blocks(info, side):
            return None
        assert native is not None
        found = self.blocks(info, arrays, side)
        return Views((native.block_sparse_linear(found.values, found.starts, found.width, found.columns),))

    def words(self) -> Words:
        """Returns the pattern, the score and the values: `2:4 wanda, uniform g64`."""
        inner, pattern = self.values.words(), f"{pattern_name(self.pattern)} {self.score.get('name', '?')}"
        short, full = inner.short, inner.full
        if isinstance(self.values, Quantize):
            full = str(self.values.grid.get("name"))
            short = f"{full} g{self.values.group}"
        fields = {"pattern": dict(self.pattern), "score": dict(self.score), **inner.fields}
        return Words(f"{pattern}, {short}", f"{pattern}, {full}", inner.bit_width, fields)


def compact_info(info: TensorInfo, positions: Positions) -> TensorInfo:
    """Returns the matrix of what each row keeps.

    Raises:
        PlanError: rows keep different numbers of weights.
    """
    if not positions.row:
        raise PlanError(f"The rows of {info.name!r} may keep different numbers of weights, so these are only cast.")
    return TensorInfo(info.name, (positions.rows, positions.row), info.dtype, info.role, "out_in")


def pattern_name(pattern: Mapping[str, Any]) -> str:
    """Returns the pattern for people to read.

    >>> pattern_name({"name": "n_of_m", "n": 2, "m": 4}), pattern_name({"name": "unstructured", "sparsity": 0.5})
    ('2:4', '50 %')
    """
    if pattern.get("name") == "n_of_m":
        return f"{pattern.get('n', 2)}:{pattern.get('m', 4)}"
    share = f"{100 * float(pattern.get('sparsity', 0.5)):.3g} %"
    return share if pattern.get("name") == "unstructured" else f"{share} {pattern.get('name')}"


FORM = Sparse
_VALUES = Quantize(
    {"name": "uniform"}, {"name": "exact"}, {"name": "babai"}, runs=(RowSpan(5, 3), RowSpan(11, 4)), group=16
)
_PATTERNS: tuple[dict[str, Any], ...] = (
    {"name": "n_of_m"},
    {"name": "unstructured", "sparsity": 0.9},
    {"name": "blocks", "height": 4, "width": 8},
)
EXAMPLES = (
    *(Sparse(Cast("float16"), pattern, {"name": "magnitude"}) for pattern in _PATTERNS),
    Sparse(_VALUES, _PATTERNS[0], {"name": "sparsegpt"}),
)
