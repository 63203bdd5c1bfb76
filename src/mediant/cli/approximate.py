"""`mediant approximate`: exact approximations of single numbers by fractions, shifts and floating-point formats."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from mediant.cli._console import JsonOption, table_console, write_json
from mediant.errors import UsageError

if TYPE_CHECKING:
    from mediant.numbers.diophantine import Solutions
    from mediant.numbers.floating_point import Fields
    from mediant.numbers.study import Study


class NegativeValues(TyperCommand):
    """A command that takes `-0.75` and `-pi` for values, not for options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Writes their sign as U+2212, which the parser of options passes over and `number` reads."""
        from mediant.numbers.study import NAMES

        negative = re.compile(rf"-(?:[\d.].*|{'|'.join(NAMES)}|inf|nan)")
        return super().parse_args(ctx, ["−" + a[1:] if negative.fullmatch(a) else a for a in args])


COMMAND_CLASS = NegativeValues


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
    from mediant.numbers.diophantine import solve as solved
    from mediant.numbers.study import number, study

    if not values and solve is None:
        raise UsageError("There is nothing to approximate: name a value, or an equation by --solve A B C.")
    studies = [study(v, max_denominator, eps, path, shift_add, float_format) for v in values or ()]
    equation = None if solve is None else tuple(_integer(number(v), v) for v in solve)
    solutions = None if equation is None else solved(*equation)
    console = table_console(json)
    for one in studies:
        tables.show(console, one, detailed=float_format is not None)
    if equation and solutions:
        tables.show_solutions(console, equation, solutions)
    write_json(json, report(studies, equation, solutions))


def _integer(value: Fraction, text: str) -> int:
    if value.denominator != 1:
        raise UsageError(f"--solve takes three integers, not {text!r}.")
    return value.numerator


def report(studies: list[Study], equation: tuple[int, ...] | None, solutions: Solutions | None) -> dict[str, Any]:
    """Returns the JSON: fractions as texts `p/q`, errors p/q - value as doubles, null beyond their range."""
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
