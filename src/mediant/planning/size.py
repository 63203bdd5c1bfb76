"""Sizes as people write them: `60MB`, `57MiB`, `3.5bpw`, `25%`, or a plain number of bytes."""

from __future__ import annotations

import re
from fractions import Fraction

from mediant.errors import SizeError, UsageError
from mediant.values import Model

UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
STORED_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}
# A folder uses at least this share of the size that was asked for.
FULLEST = 0.995


def parse_size(text: str, model: Model) -> int:
    """Target in bytes for the whole output folder.

    `bpw` counts every bit of every file over the model's weights; `%` is of the bytes of the weights as the given
    model stores them (a .gguf counts as the float32 model it is unpacked to).

    Raises:
        UsageError: not a size.
    """
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([a-zA-Z%]*)\s*", text)
    unit = match[2].lower() if match else None
    number = Fraction(match[1]) if match else Fraction(0)
    if number == 0 or (unit not in UNITS and unit not in ("bpw", "%")):
        raise UsageError(f"{text!r} is not a size; write it as 60MB, 57MiB, 1.5GB, 3.5bpw, 25% or a number of bytes.")
    if unit == "bpw":
        return int(number * model.weights / 8)
    if unit == "%":
        return int(number / 100 * stored_bytes(model))
    return int(number * UNITS[unit or ""])


def stored_bytes(model: Model) -> int:
    """Returns the bytes of the weights in the types the model stores them in, tied ones once."""
    return sum(t.size * STORED_BYTES.get(t.dtype.removeprefix("torch."), 4) for t in model.tensors)


def check_range(target: int, smallest: int, largest: int) -> None:
    """Refuses a target in bytes below the smallest, or of which the largest would leave more than half a percent.

    Args:
        target: what was asked for.
        smallest: what can be met, in bytes; 0 where that is not known.
        largest: likewise; the target where that is not known.

    Raises:
        SizeError: naming the size that can be met.
    """
    if target < smallest:
        raise SizeError(
            f"The size {exact(target)} cannot be met: the smallest this model can be made with this recipe is "
            f"{exact(smallest)}.",
            smallest,
            largest if largest > target else None,
        )
    if largest < FULLEST * target:
        raise SizeError(
            f"The size {exact(target)} is more than this model takes at its greatest bit width with this recipe: "
            f"{exact(largest)} is the largest.",
            smallest or None,
            largest,
        )


def exact(size: int) -> str:
    """Returns the bytes for people to read and to copy."""
    return f"{human(size)} ({size} bytes)"


def human(size: float) -> str:
    """Returns the bytes in the largest decimal unit that leaves a number of at least one."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.2f} {unit}"
    return f"{size:.0f} bytes"
