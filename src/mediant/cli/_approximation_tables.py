"""The tables of `mediant approximate`, made for 100 columns."""

from __future__ import annotations

from decimal import Context, Decimal
from fractions import Fraction

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mediant.numbers.diophantine import Solutions
from mediant.numbers.floating_point import Fields
from mediant.numbers.study import ShiftAdd, Study

# Longer integers are shown by their first digits.
_DIGITS = 20


def show(console: Console, study: Study, detailed: bool) -> None:
    """Prints the approximations, path, shifts and floats of one value; all about a single format if `detailed`."""
    console.print(f"[bold]{escape(study.text)}[/bold] = {short(study.value)}\n")
    console.print(approximations_table(study), "")
    if study.path is not None:
        console.print(f"Stern–Brocot path: {study.path}\n")
    if study.shift_add is not None:
        console.print(f"{shift_add_line(study.shift_add, study.value)}\n")
    console.print(fields_table(study.floats[0], study.value) if detailed else floats_table(study), "")


def show_solutions(console: Console, equation: tuple[int, ...], solutions: Solutions) -> None:
    """Prints an equation and all its integer solutions."""
    a, b, c = equation
    x, y, step_x, step_y = (int(part) for part in solutions)
    console.print(f"[bold]{a} x {_signed(b)} y = {c}[/bold]")
    console.print(f"x = {x} {_signed(step_x)} t,  y = {y} {_signed(step_y)} t  for every integer t\n")


def approximations_table(study: Study) -> Table:
    """Returns one line a fraction, with its error p/q - value."""
    table = _table("Fractions", ("",), ("a", "p/q", "decimal", "error"))
    for a in study.approximations:
        quotient = "" if a.quotient is None else short(Fraction(a.quotient))
        table.add_row(a.found, quotient, short(a.fraction), decimal(a.fraction, 12), _error(a.fraction, study.value))
    return table


def floats_table(study: Study) -> Table:
    """Returns one line a format: the exponent without its bias, the stored significand in hexadecimal."""
    columns = ("sign", "exponent", "significand", "class", "decimal", "error")
    table = _table("Floating point", ("",), columns)
    for f in study.floats:
        exponent = f"{max(f.exponent, 1) - f.format.bias}" if isinstance(f.value, Fraction) else "–"
        fields = (str(f.sign), exponent, f"{f.significand:x}", f.kind)
        table.add_row(f.format.name, *fields, decimal(f.value, 9), _error(f.value, study.value))
    return table


def fields_table(held: Fields, value: Fraction) -> Table:
    """Returns all about one format, one line a field."""
    exponent, significand = held.format.exponent_bits, held.format.significand_bits
    table = _table(f"Floating point: {held.format.name}", ("", ""), ())
    for name, cell in {
        "pattern": _pattern(held),
        "sign": str(held.sign),
        "exponent": f"{held.exponent:0{exponent}b} = {held.exponent}, bias {held.format.bias}",
        "significand": f"{held.significand:0{significand}b} = {held.significand} / 2^{significand}",
        "class": held.kind,
        "value": short(held.value),
        "decimal": decimal(held.value, 17),
        "error": _error(held.value, value),
        "next below": "none" if held.below is None else decimal(held.below, 17),
        "next above": "none" if held.above is None else decimal(held.above, 17),
    }.items():
        table.add_row(name, cell)
    return table


def shift_add_line(form: ShiftAdd, value: Fraction) -> str:
    """Returns the fraction p/2^K as signed powers of two, the number of adders and the error.

    >>> shift_add_line(ShiftAdd(7, 4, ((1, 3), (-1, 0)), 1), Fraction(7, 16))
    'Shift and add: 7/2^4 = 2^-1 − 2^-4, 1 adder, error 0'
    """
    terms = "".join(f" {'−' if sign < 0 else '+'} 2^{shift - form.places}" for sign, shift in form.shifts) or "0"
    terms = terms.removeprefix(" + ").replace(" − ", "−", terms.startswith(" − "))
    adders = f"{form.adders} adder{'' if form.adders == 1 else 's'}"
    error = _error(Fraction(form.p, 2**form.places), value)
    return f"Shift and add: {form.p}/2^{form.places} = {terms}, {adders}, error {error}"


def short(value: Fraction | float) -> str:
    """Returns an exact value, its integers of more than 20 digits by their first and their number.

    >>> short(Fraction(-22, 7)), short(Fraction(2**100))
    ('-22/7', '12676506…(31 digits)')
    """
    return "/".join(_short_integer(part) for part in str(value).split("/"))


def decimal(value: Fraction | float, digits: int) -> str:
    """Returns an exact value in so many significant decimal digits.

    >>> decimal(Fraction(1, 3), 6), decimal(Fraction(1, 30000), 3), decimal(Fraction(10) ** 400, 6)
    ('0.333333', '3.33e-5', '1e+400')
    """
    if isinstance(value, float):
        return str(value)
    context = Context(prec=digits)
    quotient = context.divide(Decimal(value.numerator), Decimal(value.denominator)).normalize(context)
    shown = quotient if quotient and abs(quotient.adjusted()) > 300 else float(quotient)
    return f"{shown:.{digits}g}".replace("e-0", "e-").replace("e+0", "e+")


def _short_integer(text: str) -> str:
    digits = len(text.lstrip("-"))
    return text if digits <= _DIGITS else f"{text[:8]}…({digits} digits)"


def _error(approximation: Fraction | float, value: Fraction) -> str:
    if isinstance(approximation, float):
        return "–"
    return decimal(approximation - value, 3)


def _pattern(held: Fields) -> str:
    return f"{held.pattern:0{held.format.bits // 4}x}"


def _signed(coefficient: int) -> str:
    return f"{'−' if coefficient < 0 else '+'} {abs(coefficient)}"


def _table(title: str, left: tuple[str, ...], right: tuple[str, ...]) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False,
        padding=(0, 1, 0, 0), show_header=bool(right),
    )  # fmt: skip
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", overflow="fold")
    return table
