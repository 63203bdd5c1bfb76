"""Numbers rounded to a type."""

from __future__ import annotations

from mediant.forms.cast.form import Cast
from mediant.values import Array, TensorInfo


def encode(values: Array, plan: Cast, info: TensorInfo) -> dict[str, Array]:
    """Returns the array of a tensor's numbers.

    Raises:
        PlanError: they do not fit the type.
    """
    return plan.stored(values, info.name)
