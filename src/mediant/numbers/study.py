"""Approximations of one number: fractions, shifts and adds, floating-point formats; all of it exact."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from mediant.errors import UsageError
from mediant.numbers.arrays import INT64_MAX
from mediant.numbers.continued_fractions import convergents, partial_quotients
from mediant.numbers.dyadic import adders, canonical_signed_digits
from mediant.numbers.floating_point import FORMATS, Fields, fields
from mediant.numbers.stern_brocot import path, simplest_between

NAMES = {"pi": math.pi, "e": math.e, "phi": (1 + math.sqrt(5)) / 2, "sqrt2": math.sqrt(2)}
# Longer texts and larger exponents would only cost time: a double has neither.
LONGEST, LARGEST_EXPONENT = 1500, 1500


@dataclass(frozen=True)
class Approximation:
    """One fraction near a value, and how it was found; `quotient` is a_k of the k-th convergent."""

    found: str
    fraction: Fraction
    quotient: int | None = None


@dataclass(frozen=True)
class ShiftAdd:
    """p / 2^places nearest to a value; p = Σ ±2^shift over `shifts` [(sign, shift)], in `adders` additions."""

    p: int
    places: int
    shifts: tuple[tuple[int, int], ...]
    adders: int


@dataclass(frozen=True)
class Study:
    """All that was asked about one value, as the exact rational that its text says."""

    text: str
    value: Fraction
    approximations: tuple[Approximation, ...]
    floats: tuple[Fields, ...]
    path: str | None
    shift_add: ShiftAdd | None


def number(text: str) -> Fraction:
    """Returns the exact value of a decimal, a fraction p/q, or a name.

    Raises:
        UsageError: it is none of these, not finite, or of no reasonable size.

    >>> number("-0.1"), number("4/6"), number("sqrt2") == Fraction(math.sqrt(2))
    (Fraction(-1, 10), Fraction(2, 3), True)
    """
    plain = text.strip().replace("−", "-")
    sign, name = (-1, plain[1:]) if plain.startswith("-") else (1, plain)
    if name in NAMES:
        return sign * Fraction(NAMES[name])
    if len(plain) <= LONGEST and re.fullmatch(r"[+-]?\d+/\d+", plain):
        p, _, q = plain.partition("/")
        if int(q) == 0:
            raise UsageError(f"{text} has the denominator 0.")
        return Fraction(int(p), int(q))
    return _decimal(text, plain)


def _decimal(text: str, plain: str) -> Fraction:
    try:
        value = Decimal(plain)
    except InvalidOperation:
        raise UsageError(
            f"{text!r} is not a number; it takes a decimal, a fraction p/q, or {', '.join(NAMES)}."
        ) from None
    if not value.is_finite():
        raise UsageError(f"{text!r} is not finite; only finite numbers have approximations.")
    if len(plain) > LONGEST or (value and abs(value.adjusted()) > LARGEST_EXPONENT):
        raise UsageError(f"{text[:20]!r} is too long or too far from 1: powers of ten go to {LARGEST_EXPONENT}.")
    return Fraction(value) if value else Fraction(0)


def study(
    text: str,
    max_denominator: int,
    eps: str | None = None,
    path: bool = False,
    shift_add: int | None = None,
    float_format: str | None = None,
) -> Study:
    """Everything about one value.

    Raises:
        UsageError: the text is no value, `eps` is negative, or the format does not exist.
    """
    value = number(text)
    # A Fraction has no negative zero; the formats have one.
    held = -0.0 if value == 0 and text.lstrip()[:1] in ("-", "−") else value
    return Study(
        text=text.strip().replace("−", "-"),
        value=value,
        approximations=tuple(_approximations(value, max_denominator, eps)),
        floats=tuple(fields(held, name) for name in ([float_format] if float_format else FORMATS)),
        path=_path(value) if path else None,
        shift_add=None if shift_add is None else _shift_add(value, shift_add),
    )


def _approximations(value: Fraction, bound: int, eps: str | None) -> Iterator[Approximation]:
    quotients = partial_quotients(value)
    for k, (a, p, q) in enumerate(zip(quotients, *convergents(quotients), strict=True)):
        if q <= bound:
            yield Approximation(f"convergent {k}", Fraction(int(p), int(q)), int(a))
    yield Approximation(f"best with q ≤ {bound}", value.limit_denominator(bound))
    if eps is not None:
        radius = number(eps)
        if radius < 0:
            raise UsageError(f"--eps is {eps}; it must not be negative.")
        yield Approximation(f"simplest within {eps}", simplest_between(value - radius, value + radius))


def _path(value: Fraction) -> str:
    """Returns the runs of |value|'s path with its sign in front."""
    if value == 0:
        return "none: the tree holds the positive fractions"
    runs = " ".join(f"{direction}^{length}" for direction, length in path(abs(value))) or "the root"
    return f"−({runs})" if value < 0 else runs


def _shift_add(value: Fraction, places: int) -> ShiftAdd:
    p = round(value * 2**places)
    if abs(p) > INT64_MAX:
        raise UsageError(f"--shift-add {places} takes values below 2^{63 - places} in magnitude.")
    digits = canonical_signed_digits(p).tolist()
    shifts = tuple((d, i) for i, d in reversed(list(enumerate(digits))) if d)
    return ShiftAdd(p, places, shifts, int(adders(p)))
