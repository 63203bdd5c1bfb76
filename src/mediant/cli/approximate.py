"""`mediant approximate`: exact approximations of single numbers by fractions, shifts and floating-point formats."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from mediant.cli._console import JsonOption, table_console, write_json
from mediant.errors import UsageError

if TYPE_CHECKING:
    from mediant.numbers.diophantine import Solutions
    from mediant.numbers.floating_point import Fields

NAMES = {"pi": math.pi, "e": math.e, "phi": (1 + math.sqrt(5)) / 2, "sqrt2": math.sqrt(2)}
# Longer texts and larger exponents would only cost time: a double has neither.
LONGEST, LARGEST_EXPONENT = 1500, 1500

_NEGATIVE = re.compile(rf"-(?:[\d.].*|{'|'.join(NAMES)}|inf|nan)")


class NegativeValues(TyperCommand):
    """A command that takes `-0.75` and `-pi` for values, not for options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Writes their sign as U+2212, which the parser of options passes over and `number` reads."""
        return super().parse_args(ctx, ["−" + a[1:] if _NEGATIVE.fullmatch(a) else a for a in args])


COMMAND_CLASS = NegativeValues


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


def command(
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="VALUE", help="0.1, 1e-3, 22/7, pi, e, phi or sqrt2; negative ones too."),
    ] = None,
    max_denominator: Annotated[int, typer.Option(min=1, metavar="N", help="Denominators go up to this.")] = 1000,
    eps: Annotated[
        str | None, typer.Option(metavar="E", help="Also find the simplest fraction within this error.")
    ] = None,
    path: Annotated[bool, typer.Option("--path", help="Show the path in the Stern-Brocot tree.")] = False,
    shift_add: Annotated[
        int | None,
        typer.Option(min=0, max=1074, metavar="K", help="Show shifts and adds over 2^K, by signed digits."),
    ] = None,
    float_format: Annotated[
        str | None, typer.Option("--float", metavar="FORMAT", help="Show all about one format, like bfloat16.")
    ] = None,
    solve: Annotated[
        tuple[str, str, str] | None,
        typer.Option(metavar="A B C", help="Solve A x + B y = C in integers."),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Approximate numbers by fractions, shifts and floats, exactly.

    A decimal or a fraction means exactly what it says; a name means the double nearest to the constant.

    For example: mediant approximate pi -0.3 22/7 --max-denominator 100 --eps 1e-3 --path --shift-add 8
    """
    from mediant.cli import _approximation_tables as tables

    if not values and solve is None:
        raise UsageError("There is nothing to approximate: name a value, or an equation by --solve A B C.")
    studies = [study(v, max_denominator, eps, path, shift_add, float_format) for v in values or ()]
    equation = None if solve is None else tuple(_integer(v) for v in solve)
    solutions = None if equation is None else _solved(equation)
    console = table_console(json)
    for one in studies:
        tables.show(console, one, detailed=float_format is not None)
    if equation and solutions:
        tables.show_solutions(console, equation, solutions)
    write_json(json, report(studies, equation, solutions))


def number(text: str) -> Fraction:
    """The exact value of a decimal, a fraction p/q, or a name.

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
    from mediant.numbers.floating_point import FORMATS, fields

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
    from mediant.numbers.continued_fractions import convergents, partial_quotients
    from mediant.numbers.stern_brocot import simplest_between

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
    """The runs of |value|'s path with its sign in front."""
    from mediant.numbers.stern_brocot import path

    if value == 0:
        return "none: the tree holds the positive fractions"
    runs = " ".join(f"{direction}^{length}" for direction, length in path(abs(value))) or "the root"
    return f"−({runs})" if value < 0 else runs


def _shift_add(value: Fraction, places: int) -> ShiftAdd:
    from mediant.numbers.arrays import INT64_MAX
    from mediant.numbers.dyadic import adders, canonical_signed_digits

    p = round(value * 2**places)
    if abs(p) > INT64_MAX:
        raise UsageError(f"--shift-add {places} takes values below 2^{63 - places} in magnitude.")
    digits = canonical_signed_digits(p).tolist()
    shifts = tuple((d, i) for i, d in reversed(list(enumerate(digits))) if d)
    return ShiftAdd(p, places, shifts, int(adders(p)))


def _integer(text: str) -> int:
    value = number(text)
    if value.denominator != 1:
        raise UsageError(f"--solve takes three integers, not {text!r}.")
    return value.numerator


def _solved(equation: tuple[int, ...]) -> Solutions:
    from mediant.numbers.diophantine import solve

    return solve(*equation)


def report(studies: list[Study], equation: tuple[int, ...] | None, solutions: Solutions | None) -> dict[str, Any]:
    """What `--json` writes: fractions as texts `p/q`, errors p/q - value as doubles, null beyond their range."""
    solved = {} if solutions is None else {k: int(v) for k, v in solutions._asdict().items()}
    return {
        "values": [_study_report(s) for s in studies],
        "equation": None if equation is None else {**dict(zip("abc", equation, strict=True)), **solved},
    }


def _study_report(one: Study) -> dict[str, Any]:
    return {
        "text": one.text,
        "exact": str(one.value),
        "approximations": [
            {
                "found": a.found,
                "quotient": a.quotient,
                "fraction": str(a.fraction),
                "error": _double(a.fraction - one.value),
            }
            for a in one.approximations
        ],
        "path": one.path,
        "shift_add": None if one.shift_add is None else vars(one.shift_add),
        "floats": [_float_report(f, one.value) for f in one.floats],
    }


def _float_report(held: Fields, value: Fraction) -> dict[str, Any]:
    neighbours = {k: None if v is None else str(v) for k, v in (("below", held.below), ("above", held.above))}
    return {
        "format": held.format.name,
        "pattern": f"{held.pattern:#0{held.format.bits // 4 + 2}x}",
        "sign": held.sign,
        "exponent": held.exponent,
        "significand": held.significand,
        "class": held.kind,
        "value": str(held.value),
        "error": _double(held.value - value),
        **neighbours,
    }


def _double(value: Fraction | float) -> float | None:
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
