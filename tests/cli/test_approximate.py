"""`mediant approximate` through the real command line: values in, exact figures out."""

import json
import math
from fractions import Fraction

import pytest

from mediant.cli import _console, app
from mediant.errors import UsageError
from mediant.numbers.study import number


@pytest.fixture
def run(monkeypatch, capsys):
    """Exit code, standard output, standard error of `mediant approximate` with these arguments."""
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["mediant", "approximate", *arguments])
        code = _console.run(app)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def figures(run):
    def call(*arguments):
        code, out, _ = run(*arguments, "--json", "-")
        assert code == 0
        return json.loads(out)

    return call


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", Fraction(1, 10)),
        ("-1e-3", Fraction(-1, 1000)),
        ("22/7", Fraction(22, 7)),
        ("-4/6", Fraction(-2, 3)),
        ("+.5", Fraction(1, 2)),
        ("−0.25", Fraction(-1, 4)),
        ("pi", Fraction(math.pi)),
        ("-e", Fraction(-math.e)),
        ("phi", Fraction((1 + math.sqrt(5)) / 2)),
        ("-sqrt2", Fraction(-math.sqrt(2))),
        ("0e999999999", Fraction(0)),
    ],
)
def test_a_text_means_exactly_what_it_says(text, value):
    assert number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "1/0",
        "nan",
        "-inf",
        "1/2/3",
        "0x10",
        "1e99999999999",
        "1e-1501",
        "9" * 2000,
        "1/" + "9" * 2000,
        "--pi",
    ],
)
def test_what_is_no_number_is_refused_at_once(text):
    with pytest.raises(UsageError):
        number(text)


def test_the_table_shows_convergents_and_the_best(run):
    code, out, error = run("pi", "--max-denominator", "100", "--eps", "1e-3", "--path", "--shift-add", "8")
    assert (code, error) == (0, "")
    for part in ("22/7", "311/99", "201/64", "R^3 L^7 R^15", "3 adders", "float8_e4m3", "bfloat16"):
        assert part in out


@pytest.mark.parametrize("value", ["-0.75", "-3/4", "-.75", "-pi", "-phi", "-e", "-sqrt2", "-1e-3", "-0"])
def test_negative_values_need_no_quoting(figures, value):
    (one,) = figures(value)["values"]
    assert one["text"] == value
    assert Fraction(one["exact"]) == number(value)
    assert all(held["sign"] == 1 for held in one["floats"])


def test_figures_are_exact(figures):
    (one,) = figures("-0.3", "--max-denominator", "5", "--eps", "1/50")["values"]
    found = {a["found"]: a for a in one["approximations"]}
    assert [a["quotient"] for a in one["approximations"] if a["quotient"] is not None] == [-1, 1, 2]
    assert found["best with q ≤ 5"]["fraction"] == "-1/3"
    assert found["best with q ≤ 5"]["error"] == float(Fraction(-1, 3) + Fraction(3, 10))
    assert found["simplest within 1/50"]["fraction"] == "-2/7"


@pytest.mark.parametrize("text", ["pi", "-0.3", "1/7", "0", "1", "-5", "1e308", "5e-324", "123456789.125"])
def test_all_that_is_printed_agrees_with_fraction(figures, text):
    value = number(text)
    shift_add = ("--shift-add", "10") if abs(value) < 2**52 else ()
    (one,) = figures(text, "--max-denominator", "1000", "--eps", "1e-6", *shift_add)["values"]
    best = next(a for a in one["approximations"] if a["found"].startswith("best"))
    assert Fraction(best["fraction"]) == value.limit_denominator(1000)
    within = next(a for a in one["approximations"] if a["found"].startswith("simplest"))
    assert abs(Fraction(within["fraction"]) - value) <= Fraction(1, 10**6)
    assert all(Fraction(a["fraction"]).denominator <= 1000 for a in one["approximations"] if a["quotient"] is not None)
    if one["shift_add"]:
        shifts = one["shift_add"]["shifts"]
        assert sum(sign * 2**shift for sign, shift in shifts) == one["shift_add"]["p"] == round(value * 2**10)
        assert one["shift_add"]["adders"] == max(0, len(shifts) - 1)


def test_one_format_in_full(run, figures):
    _, out, _ = run("0.1", "--float", "bfloat16")
    for part in ("3dcd", "01111011 = 123, bias 127", "1001101 = 77 / 2^7", "normal", "205/2048"):
        assert part in out
    (held,) = figures("1e6", "--float", "float8_e5m2")["values"][0]["floats"]
    assert (held["class"], held["value"], held["error"], held["below"], held["above"]) == (
        "infinity", "inf", None, "57344", None
    )  # fmt: skip


def test_an_equation_is_solved(run, figures):
    _, out, _ = run("--solve", "6", "-10", "8")
    assert "6 x − 10 y = 8" in out
    equation = figures("--solve", "6", "-10", "8")["equation"]
    assert 6 * equation["x"] - 10 * equation["y"] == 8
    assert (equation["step_x"], equation["step_y"]) == (5, 3)
    assert figures("0.5")["equation"] is None


def test_a_json_file_leaves_the_table_on_standard_output(run, tmp_path):
    code, out, _ = run("0.5", "--json", str(tmp_path / "figures.json"))
    assert (code, "1/2" in out) == (0, True)
    assert json.loads((tmp_path / "figures.json").read_text())["values"][0]["exact"] == "1/2"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((), "nothing to approximate"),
        (("nan",), "not finite"),
        (("-inf",), "not finite"),
        (("0.5", "--eps", "-1"), "must not be negative"),
        (("0.5", "--float", "fp4"), "no format"),
        (("1e30", "--shift-add", "8"), "below 2^55"),
        (("--solve", "2", "4", "7"), "no integer solution"),
        (("--solve", "2", "0.5", "7"), "three integers"),
        (("0.5", "--max-denominator", "0"), "max-denominator"),
        (("0.5", "--epss", "1"), "--epss"),
    ],
)
def test_wrong_arguments_exit_with_one_sentence(run, arguments, what):
    code, out, error = run(*arguments)
    assert (code, out) == (UsageError.exit_code, "")
    assert what in error


def test_help_has_an_example(run):
    assert "For example: mediant approximate pi" in run("--help")[1]
