"""Which floating-point types hold a tensor: none of its values may become infinite, and no whole row zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mediant.errors import ModelError
from mediant.models.lazy import LazyTensor
from mediant.progress import SILENT, Progress


@dataclass(frozen=True)
class Misfit:
    """What a type would do to a tensor. `largest` is its largest magnitude, `row` the first row that would vanish."""

    largest: float
    row: int | None = None

    def say(self, name: str, type_name: str, most: float) -> str:
        """Returns the sentence about it, without an end."""
        if self.row is None:
            return f"The tensor {name!r} holds {self.largest:g}, and {type_name} nothing above {most:g}"
        return f"Row {self.row} of the tensor {name!r} would become zero in {type_name}, and its values are not"


def misfit(values: torch.Tensor, dtype: torch.dtype) -> Misfit | None:
    """Finds what goes wrong when `values` are rounded to `dtype`; None where nothing does.

    >>> misfit(torch.tensor([[1.0, 1e5]]), torch.float16)
    Misfit(largest=100000.0, row=None)
    >>> misfit(torch.tensor([[1.0], [1e-9]]), torch.float16).row
    1
    >>> misfit(torch.tensor([[1e5, 1e-9]]), torch.bfloat16) is None
    True
    """
    if _holds(dtype, values.dtype) or not values.numel():
        return None
    rounded = values.to(dtype)
    finite = torch.isfinite(values)
    if bool((finite & ~torch.isfinite(rounded)).any()):
        return Misfit(float(values[finite].abs().max()))
    rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
    before, after = rows.abs().amax(1), rounded.reshape(rows.shape).abs().amax(1)
    vanished = ((before > 0) & (after == 0)).nonzero()
    return Misfit(float(before.max()), int(vanished[0])) if len(vanished) else None


def check_ranges(
    tensors: Mapping[str, LazyTensor], kind: str, types: Sequence[str], progress: Progress = SILENT
) -> None:
    """Refuses to round tensors to the torch type `kind` if it does not hold them all.

    Tensors in a type whose every value fits are not read.

    Raises:
        ModelError: naming the tensor, its largest value, and those of `types` that hold it.
    """
    dtype = getattr(torch, kind)
    doubtful = {name: t for name, t in tensors.items() if not _holds(dtype, t.dtype)}
    for name, tensor in progress.track(doubtful.items(), "Checking ranges", len(doubtful)):
        values = tensor.read()
        if (found := misfit(values, dtype)) is not None:
            fitting = [t for t in types if misfit(values, getattr(torch, t)) is None]
            other = f"choose --type {' or '.join(fitting)}" if fitting else "no type that is offered holds it"
            raise ModelError(f"{found.say(name, kind, torch.finfo(dtype).max)}; {other}.")


def _holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Returns True if every value of `narrow` stays finite in `wide`, and not zero."""
    if not narrow.is_floating_point or wide == narrow:
        return True
    outer, inner = torch.finfo(wide), torch.finfo(narrow)
    return outer.max >= inner.max and outer.smallest_normal * outer.eps <= inner.smallest_normal * inner.eps
