"""The anatomy of floating-point numbers: IEEE 754 fields, exact value, neighbours and class, in six formats.

float64, float32, float16 and bfloat16 follow IEEE 754-2019, section 3.4. float8_e5m2 and float8_e4m3 follow the OCP
8-bit Floating Point Specification 1.0 (2023), section 5: e5m2 as IEEE 754; e4m3 without infinities and with one NaN
a sign, all ones. Rounding is to nearest, ties to even, without saturation: beyond the range lies infinity, or NaN
where there is none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from mediant.errors import UsageError

Class = Literal["zero", "subnormal", "normal", "infinity", "nan"]
# A Fraction where it is finite, else the float inf, -inf or nan.
Value = Fraction | float


@dataclass(frozen=True)
class Format:
    """A binary interchange format: a sign bit, `exponent_bits`, `significand_bits` (those stored)."""

    name: str
    exponent_bits: int
    significand_bits: int
    infinite: bool = True

    @property
    def bits(self) -> int:
        """Bits in all."""
        return 1 + self.exponent_bits + self.significand_bits

    @property
    def bias(self) -> int:
        """The exponent bias: stored exponent minus true exponent."""
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def largest(self) -> int:
        """The pattern of the largest finite value."""
        all_ones = (1 << (self.bits - 1)) - 1
        return all_ones - (1 << self.significand_bits) if self.infinite else all_ones - 1

    @property
    def overflow(self) -> int:
        """The pattern of what lies beyond the range: infinity, or NaN where there is none."""
        return self.largest + 1

    @property
    def nan(self) -> int:
        """The pattern of the quiet NaN with an otherwise empty payload, or of the only NaN."""
        return self.overflow | 1 << (self.significand_bits - 1) if self.infinite else self.overflow


FORMATS = {
    f.name: f
    for f in (
        Format("float64", 11, 52),
        Format("float32", 8, 23),
        Format("float16", 5, 10),
        Format("bfloat16", 8, 7),
        Format("float8_e5m2", 5, 2),
        Format("float8_e4m3", 4, 3, infinite=False),
    )
}


@dataclass(frozen=True)
class Fields:
    """A number as a format holds it.

    `pattern` is all its bits; `sign`, `exponent` and `significand` are the stored fields. `below` and `above` are the
    next numbers on either side, an infinity included; None where there is none.
    """

    format: Format
    pattern: int
    sign: int
    exponent: int
    significand: int
    kind: Class
    value: Value
    below: Value | None
    above: Value | None


def fields(value: Value, format: str) -> Fields:
    """`value`, rounded to the format, and its fields.

    Raises:
        UsageError: there is no such format.

    >>> f = fields(0.1, "float8_e4m3")
    >>> f.sign, f.exponent, f.significand, f.value
    (0, 3, 5, Fraction(13, 128))
    """
    layout = _format(format)
    pattern = encode(value, format)
    magnitude = pattern & ((1 << (layout.bits - 1)) - 1)
    exponent, significand = divmod(magnitude, 1 << layout.significand_bits)
    sign = pattern >> (layout.bits - 1)
    below, above = _beside(pattern, -1, layout), _beside(pattern, 1, layout)
    kind = _kind(magnitude, layout)
    return Fields(layout, pattern, sign, exponent, significand, kind, decode(pattern, format), below, above)


def encode(value: Value, format: str) -> int:
    """Returns the bit pattern of `value` rounded to the format; it keeps the sign of a float's zero or NaN.

    Raises:
        UsageError: there is no such format.

    >>> hex(encode(1.5, "bfloat16"))
    '0x3fc0'
    """
    layout = _format(format)
    negative = value < 0 if isinstance(value, Fraction) else math.copysign(1, value) < 0
    sign = int(negative) << (layout.bits - 1)
    if isinstance(value, float) and not math.isfinite(value):
        return sign | (layout.nan if math.isnan(value) else layout.overflow)
    return sign | _magnitude(abs(Fraction(value)), layout)


def decode(pattern: int, format: str) -> Value:
    """Returns the exact value of a bit pattern; a Fraction has no negative zero.

    Raises:
        UsageError: there is no such format, or it has no such pattern.

    >>> decode(0x3FC0, "bfloat16")
    Fraction(3, 2)
    """
    layout = _format(format)
    if not 0 <= pattern < 1 << layout.bits:
        raise UsageError(f"{pattern:#x} is no pattern of {format}; it takes {layout.bits} bits.")
    sign, magnitude = divmod(pattern, 1 << (layout.bits - 1))
    if magnitude > layout.largest:
        return math.nan if _kind(magnitude, layout) == "nan" else -math.inf if sign else math.inf
    exponent, significand = divmod(magnitude, 1 << layout.significand_bits)
    if exponent:
        significand += 1 << layout.significand_bits
    power = max(exponent, 1) - layout.bias - layout.significand_bits
    value = significand * Fraction(2) ** power
    return -value if sign else value


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise UsageError(f"There is no format {name!r}; there are: {', '.join(FORMATS)}.")
    return FORMATS[name]


def _magnitude(value: Fraction, layout: Format) -> int:
    """Returns the pattern of a value from 0, rounded to nearest, ties to even."""
    if not value:
        return 0
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    exponent -= value < Fraction(2) ** exponent
    exponent = max(exponent, 1 - layout.bias)
    units = round(value / Fraction(2) ** (exponent - layout.significand_bits))
    # The hidden bit, and a carry out of the significand, add to the exponent by themselves.
    pattern = ((exponent + layout.bias - 1) << layout.significand_bits) + units
    return min(pattern, layout.overflow)


def _kind(magnitude: int, layout: Format) -> Class:
    if magnitude > layout.largest:
        return "infinity" if layout.infinite and magnitude == layout.overflow else "nan"
    if magnitude >> layout.significand_bits:
        return "normal"
    return "subnormal" if magnitude else "zero"


def _beside(pattern: int, step: int, layout: Format) -> Value | None:
    """Returns the next number above (step 1) or below (step -1); both zeros count as one."""
    top = 1 << (layout.bits - 1)
    sign, magnitude = divmod(pattern, top)
    if _kind(magnitude, layout) == "nan":
        return None
    # Patterns of one sign are ordered like integers.
    place = (-magnitude if sign else magnitude) + step
    if abs(place) > layout.largest + layout.infinite:
        return None
    return decode(abs(place) + (top if place < 0 else 0), layout.name)
