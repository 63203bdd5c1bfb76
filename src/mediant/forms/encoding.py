"""Encoding tensors by their forms: each form's `encode.py` is imported when it is asked for.

It has `encode(layer, plan, info, hint) -> Encoded`, or, for a plain form, `encode(values, plan, info)` which gives the
arrays. It may have `HINTS` (`Hints`), and `trial_losses(layer, plans)` where that takes less than encoding.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mediant.forms import Encoding, Floats, Form, Side
from mediant.methods.layer import Layer
from mediant.methods.stack import Hessian, prepare_any
from mediant.models.matrix_form import to_matrix
from mediant.values import Array, Certificate, LayerStatistics, TensorInfo


@dataclass(frozen=True)
class Encoded:
    """Arrays of one matrix, what they decode to in the basis of the form, and what is known about the error."""

    parts: dict[str, Array]
    matrix: Floats
    certificate: Certificate


@dataclass(frozen=True)
class Original:
    """A tensor to be encoded: its weights in its own shape, and what calibration knows of them."""

    info: TensorInfo
    values: Array
    statistics: LayerStatistics | None = None
    hessian: Hessian | None = None

    def layer(self, rotation: int | None = None) -> Layer:
        """Returns the matrix with its metric, its columns rotated by a seed if there is one."""
        return prepare_any(to_matrix(self.values, self.info), rotation, self.statistics, self.hessian)


class Hints(Protocol):
    """What `encode.py` of a form may have as `HINTS`: measurements on the whole model that its encoding goes by."""

    def key(self, forms: Mapping[str, Any]) -> str:
        """Returns a text that is the same for forms, by tensor, for which the same is measured."""

    def measure(self, context: Any, forms: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns a hint for each tensor; `context` has `model`, `text`, `statistics` and `progress`, measured if
        asked.
        """

    def to_bytes(self, hints: Mapping[str, Any]) -> bytes:
        """Hints to be kept."""

    def from_bytes(self, data: bytes) -> Mapping[str, Any]:
        """Returns the inverse of `to_bytes`."""

    def neutral(self, form: Any, layer: Layer) -> Any:
        """Returns the hint of a matrix of which nothing was measured."""

    def side(self, form: Any, hint: Any) -> Side:
        """Side information before the tensor is encoded."""


def encode(original: Original, plan: Form, hint: Any = None) -> Encoding:
    """Returns a tensor encoded by its plan; `hint` is what the form's `Hints` measured, if it has any.

    Raises:
        PlanError: methods that do not go together, or weights that do not fit.
    """
    encoder = _encoder(type(plan))
    if plan.plain:
        return Encoding(original.info, plan, encoder.encode(original.values, plan, original.info))
    found: Encoded = encoder.encode(original.layer(plan.rotation), plan, original.info, hint)
    return Encoding(original.info, plan, found.parts, found.certificate)


def encode_in_pieces(
    info: TensorInfo,
    plan: Form,
    read: Callable[[int, int], Floats],
    statistics: LayerStatistics | None = None,
    hessian: Hessian | None = None,
) -> Encoding | None:
    """Returns a large tensor encoded some rows at a time, with the parts of `encode`; None where it has to be taken
    whole.

    Args:
        info: the tensor.
        plan: its form, which may have `suits` and `encode_in_pieces` in a `pieces.py`.
        read: gives rows `begin` to `end` of the matrix.
        statistics, hessian: as of `Original`.
    """
    module = f"{type(plan).__module__.rpartition('.')[0]}.pieces"
    if importlib.util.find_spec(module) is None or (statistics is not None and statistics.input_square.ndim > 1):
        return None
    pieces = importlib.import_module(module)
    if not pieces.suits(plan, info):
        return None
    found: Encoding = pieces.encode_in_pieces(info, plan, read, statistics, hessian)
    return found


def trial_losses(layer: Layer, plans: Mapping[int, Form]) -> dict[int, float]:
    """Returns the loss of a layer, in the basis of the plans, under plans that differ in nothing but their bit
    widths.
    """
    encoder = _encoder(type(next(iter(plans.values()))))
    if hasattr(encoder, "trial_losses"):
        found: dict[int, float] = encoder.trial_losses(layer, plans)
        return found
    shape = layer.matrix.shape
    info = TensorInfo("a matrix", (shape[0], shape[1]), "float32", "linear", "out_in")
    shares = {bits: encoder.encode(layer, plan, info).certificate.weighted_error for bits, plan in plans.items()}
    return {bits: layer.zeroing * share for bits, share in shares.items()}


def hints_of(kind: type[Form]) -> Hints | None:
    """Finds what a form measures on the whole model before its tensors are encoded; None if it measures nothing."""
    found: Hints | None = getattr(_encoder(kind), "HINTS", None)
    return found


def foreseen(plan: Form, hint: Any) -> Side:
    """Side information before a tensor is encoded, by what was measured on the whole model."""
    hints = hints_of(type(plan))
    assert hints is not None  # where the hint came from
    return hints.side(plan, hint)


def _encoder(kind: type[Form]) -> Any:
    return importlib.import_module(f"{kind.__module__.rpartition('.')[0]}.encode")
