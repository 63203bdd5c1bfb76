"""Numbers of one type: `float32`, `float16` or `bfloat16`, in the tensor's own shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mediant.errors import PlanError
from mediant.forms import Arrays, Floats, Form, Ledger, Side, Views, Words
from mediant.forms.parts import NUMBER_DTYPES, Parts, check_shape, numbers
from mediant.kernels import native
from mediant.kernels.bfloat16 import from_float32
from mediant.values import Array, TensorInfo

HALVES = ("float16", "bfloat16")


@dataclass(frozen=True)
class Cast(Form):
    """Numbers of type `dtype`; with `bias_correction` a bias takes up the mean error of its module's weight."""

    method: ClassVar[str] = "cast"
    ledger: ClassVar[Ledger] = "cast"
    plain: ClassVar[bool] = True
    usual: ClassVar[tuple[str, ...]] = ("bias_correction",)

    dtype: str = "float16"
    bias_correction: bool = False

    @property
    def tunable(self) -> bool:
        """False: its numbers are learned themselves, where they are learned."""
        return False

    def parts(self, info: TensorInfo, side: Side = None) -> Parts:
        """Returns the numbers alone."""
        check_shape(info)
        if self.dtype not in NUMBER_DTYPES:
            raise PlanError(
                f"The tensor {info.name!r} cannot be cast to {self.dtype!r}; it takes {', '.join(NUMBER_DTYPES)}."
            )
        return {"data": (self.dtype, info.shape)}

    def decode(self, info: TensorInfo, arrays: Arrays, side: Side, planes: int | None = None) -> Floats:
        """Returns the numbers as float32."""
        return numbers(arrays["data"], self.dtype).reshape(info.shape)

    def stored(self, values: Array, name: str) -> dict[str, Array]:
        """Returns the array of numbers.

        Raises:
            PlanError: they do not fit the type.
        """
        if self.dtype == "float16" and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            raise PlanError(f"The tensor {name!r} does not fit float16; plan bfloat16 or float32 for it.")
        return {"data": from_float32(values) if self.dtype == "bfloat16" else values.astype(self.dtype)}

    def with_row_gains(self, info: TensorInfo, arrays: Arrays, gains: Floats) -> dict[str, Array]:
        """Returns the numbers of every row times its gain."""
        return self.stored(self.decode(info, arrays, None) * gains.reshape(-1, *[1] * (len(info.shape) - 1)), info.name)

    def mapped(self, info: TensorInfo) -> bool:
        """Returns True for half floats, which are used where they are."""
        return self.dtype in HALVES and info.layout == "out_in"

    def views(self, info: TensorInfo, arrays: Arrays, side: Side) -> Views | None:
        """Half floats as they are."""
        if not self.mapped(info):
            return None
        assert native is not None
        return Views((native.half_linear(arrays["data"].view(np.uint16), self.dtype == "bfloat16"),))

    def words(self) -> Words:
        """Returns its type."""
        return Words(self.dtype, self.dtype, fields={"dtype": self.dtype})


FORM = Cast
EXAMPLES = (Cast("float32"), Cast("float16"), Cast("bfloat16"))
