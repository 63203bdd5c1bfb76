"""Groups of one column of one cluster of rows, each with a bit width, a scale and a centre (companded_matrix.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mediant.errors import CheckpointError, PlanError
from mediant.forms import Arrays, Floats, Form, Words
from mediant.forms.compand.companded_matrix import (
    LEVELS,
    WIDTH_BITS,
    CompandedMatrix,
    cluster_bits,
    cluster_count,
)
from mediant.forms.parts import MOST_WEIGHTS, Parts, check_reach, check_setting, matrix_shape
from mediant.kernels.bit_planes import packed_bytes
from mediant.values import TensorInfo


@dataclass(frozen=True)
class Length:
    """Bytes of the codes."""

    codes: int


@dataclass(frozen=True)
class Compand(Form):
    """Every column of a cluster of about `cluster` rows has a bit width by its demand and `multiplier`.

    Demands are measured with `sequences` sequences, on weights quantized to `rate` bits again after every `renewal`
    sequences, or on the original ones if that is 0 (demands.py).
    """

    method: ClassVar[str] = "compand"
    measured: ClassVar[bool] = True

    multiplier: float = 0.0
    rate: float = 0.0
    cluster: int = 512
    sequences: int = 48
    renewal: int = 16

    @property
    def tunable(self) -> bool:
        """False: there are no scales of rows."""
        return False

    def side_of(self, info: TensorInfo, arrays: Arrays) -> Length:
        """Returns the length of its codes."""
        return Length(arrays["codes"].size)

    def side_from_dict(self, info: TensorInfo, given: Mapping[str, Any], parts: Parts) -> Length:
        """Reads the length of the codes from the shape of their array; the manifest says nothing beside it."""
        shape = parts["codes"][1] if "codes" in parts else ()
        return Length(shape[0] if shape else 0)

    def parts(self, info: TensorInfo, side: Length | None = None) -> Parts:
        """Codes, and for each group its bit width, scale and centre, and for each row its cluster."""
        rows, columns = matrix_shape(info)
        for name in ("multiplier", "rate"):
            check_setting(info, name, getattr(self, name))
        for name, least in (("cluster", 1), ("sequences", 1), ("renewal", 0)):
            if not least <= getattr(self, name) < MOST_WEIGHTS:
                raise PlanError(f"The {name} of {info.name!r} is {getattr(self, name)}; it is at least {least}.")
        count = cluster_count(rows, self.cluster)
        return {
            "codes": ("uint8", (side.codes if side else 0,)),
            "bit_widths": ("uint8", (packed_bytes(count * columns, WIDTH_BITS),)),
            "scales": ("bfloat16", (count, columns)),
            "centres": ("bfloat16", (count, columns)),
            "clusters": ("uint8", (packed_bytes(rows, cluster_bits(count)),)),
        }

    def matrix(self, info: TensorInfo, arrays: Arrays, side: Length | None, planes: int | None = None) -> Floats:
        """Expanded codes."""
        return CompandedMatrix.from_parts(arrays, *info.matrix_shape).matrix()

    def verify_sound(self, info: TensorInfo, arrays: Arrays, side: Length | None) -> None:
        """Unpacks the codes."""
        try:
            found = CompandedMatrix.from_parts(arrays, *info.matrix_shape)
        except ValueError as problem:
            raise CheckpointError(f"The tensor {info.name!r} cannot be decoded: {problem}.") from None
        largest = float(np.abs(found.scales).max()) * float(np.abs(LEVELS).max()) + float(np.abs(found.centres).max())
        check_reach(info, largest)

    def words(self) -> Words:
        """Returns the size of its clusters."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Words(f"companded, clusters of {self.cluster}", "companded", None, fields)


FORM = Compand
EXAMPLES = (Compand(multiplier=0.01, rate=3.0, cluster=6), Compand(multiplier=0.1, rate=2.0))
