"""What a plan says of a quantized tensor, and what follows from it alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mediant.forms import Form
from mediant.forms.quantize.layouts import Rows, Tiles, layout
from mediant.kernels.scale_codes import ScaleForm
from mediant.values import RowSpan, TensorInfo, Truncation

Storage = Literal["rows", "tiles", "nested"]


@dataclass(frozen=True)
class Settings(Form):
    """Fields of the form, without what reads or writes arrays. Specs name files under `methods`.

    `runs` give the bit width of consecutive rows and add up to all rows. `group` is the number of neighbouring columns
    that share a scale. `scale_bits` 16 stores a bfloat16 scale per group; fewer store a power of 2^(-1/scale_steps)
    relative to a bfloat16 row scale, with a sign if `scale_signed` (kernels/scale_codes.py). `storage` is how codes lie
    in the file (layouts.py). `truncations` of nested codes say when they are cut to fewer bits while the model runs at
    less precision (allocation/plane_order.py). `basis` names a change of basis of the columns that reading undoes:
    empty, {"name": "rotation", "seed": ...} (kernels/rotation.py), or {"name": "columns", "by": spec} with a stored
    factor for each column, found by a file under methods/equalization. `outliers` columns are stored as float16 beside
    their codes.
    """

    grid: Mapping[str, Any] = field(default_factory=dict)
    scale: Mapping[str, Any] = field(default_factory=dict)
    rounding: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[RowSpan, ...] = ()
    group: int = 64
    scale_bits: int = 6
    scale_signed: bool = True
    scale_steps: int = 8
    storage: Storage = "rows"
    truncations: tuple[Truncation, ...] = ()
    basis: Mapping[str, Any] = field(default_factory=dict)
    outliers: int = 0

    @property
    def scale_form(self) -> ScaleForm:
        """The way scales are stored; ValueError if there is none."""
        return ScaleForm(self.scale_bits, self.scale_signed, self.scale_steps)

    @property
    def layout(self) -> Rows | Tiles:
        """The layout of codes in the file."""
        return layout(self.storage)

    @property
    def rotation(self) -> int | None:
        """Seed of the rotation of the columns; None without."""
        return self.basis["seed"] if self.basis.get("name") == "rotation" else None

    @property
    def scales_columns(self) -> bool:
        """True if reading multiplies every column by a stored factor."""
        return self.basis.get("name") == "columns"

    @property
    def trainable(self) -> bool:
        """True if no column is stored apart from the others."""
        return not self.outliers and not self.scales_columns

    @property
    def packs(self) -> bool:
        """True for tiles whose columns are all alike."""
        return self.storage != "rows" and not self.outliers and not self.scales_columns

    def groups(self, info: TensorInfo) -> tuple[int, int]:
        """Rows, and groups of a row."""
        rows, columns = info.matrix_shape
        return rows, -(-columns // self.group)
