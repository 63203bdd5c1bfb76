"""Six formats against NumPy and torch, bit for bit, and against the figures of their standards."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from mediant.errors import UsageError
from mediant.numbers.floating_point import FORMATS, decode, encode, fields

NUMPY = {"float64": (np.float64, np.uint64), "float32": (np.float32, np.uint32), "float16": (np.float16, np.uint16)}
TORCH = {
    "bfloat16": (torch.bfloat16, torch.uint16),
    "float8_e5m2": (torch.float8_e5m2, torch.uint8),
    "float8_e4m3": (torch.float8_e4m3fn, torch.uint8),
}
SMALL = [name for name, f in FORMATS.items() if f.bits <= 16]


def same(a, b):
    return (a != a and b != b) or a == b


def patterns_of(name):
    return range(1 << FORMATS[name].bits)


def torch_values(name):
    kind, bits = TORCH[name]
    return torch.arange(1 << FORMATS[name].bits, dtype=torch.int32).to(bits).view(kind).double().tolist()


@pytest.mark.parametrize("name", TORCH)
def test_every_pattern_has_torchs_value(name):
    assert all(same(decode(n, name), v) for n, v in zip(patterns_of(name), torch_values(name), strict=True))


def test_every_float16_has_numpys_value():
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16).tolist()
    assert all(same(decode(n, "float16"), v) for n, v in enumerate(values))


@pytest.mark.parametrize("name", SMALL)
def test_every_small_pattern_comes_back(name):
    """Up to the sign of zero, which a Fraction has not, and the payload of a NaN."""
    layout = FORMATS[name]
    for n in patterns_of(name):
        value = decode(n, name)
        if value == value and value != 0:
            assert encode(value, name) == n
        elif value != value:
            assert encode(value, name) in (layout.nan, layout.nan | 1 << (layout.bits - 1))


@given(st.floats(), st.sampled_from(sorted(NUMPY)))
def test_rounding_is_numpys(x, name):
    kind, bits = NUMPY[name]
    with np.errstate(over="ignore"):
        held = np.float64(x).astype(kind)
    if math.isnan(x):
        assert math.isnan(decode(encode(x, name), name))
    else:
        assert encode(x, name) == int(held.view(bits))


@given(st.floats(width=32) | st.floats(-600, 600, width=32), st.sampled_from(sorted(TORCH)))
def test_rounding_is_torchs(x, name):
    """But for e4m3 beyond its range, where torch saturates from some version on."""
    assume(name != "float8_e4m3" or math.isnan(x) or abs(x) <= 464)
    kind, bits = TORCH[name]
    held = torch.tensor([x], dtype=torch.float32).to(kind).view(bits).item()
    if math.isnan(x):
        assert math.isnan(decode(encode(x, name), name))
    else:
        assert encode(x, name) == held


@given(st.fractions(), st.sampled_from(sorted(FORMATS)))
def test_fractions_round_to_the_nearest_with_ties_to_even(x, name):
    held = fields(x, name)
    if held.kind in ("infinity", "nan"):
        assert abs(x) > decode(held.format.largest, name)
        return
    finite = [v for v in (held.below, held.above) if isinstance(v, Fraction)]
    nearest = min(abs(v - x) for v in finite)
    assert abs(held.value - x) < nearest or (abs(held.value - x) == nearest and held.significand % 2 == 0)


@pytest.mark.parametrize(
    ("name", "largest", "least_normal", "least"),
    [
        ("float64", (2 - Fraction(2) ** -52) * 2**1023, Fraction(2) ** -1022, Fraction(2) ** -1074),
        ("float32", (2 - Fraction(2) ** -23) * 2**127, Fraction(2) ** -126, Fraction(2) ** -149),
        ("float16", Fraction(65504), Fraction(2) ** -14, Fraction(2) ** -24),
        ("bfloat16", (2 - Fraction(2) ** -7) * 2**127, Fraction(2) ** -126, Fraction(2) ** -133),
        ("float8_e5m2", Fraction(57344), Fraction(2) ** -14, Fraction(2) ** -16),
        ("float8_e4m3", Fraction(448), Fraction(2) ** -6, Fraction(2) ** -9),
    ],
)
def test_ranges_are_those_of_the_standards(name, largest, least_normal, least):
    layout = FORMATS[name]
    assert decode(layout.largest, name) == largest
    assert fields(least_normal, name).kind == "normal"
    assert fields(least_normal, name).below == least_normal - least
    assert fields(least_normal - least, name).kind == "subnormal" or least_normal == least
    assert decode(1, name) == least
    assert fields(0.0, name).above == least
    assert fields(-0.0, name).below == -least


@pytest.mark.parametrize("name", SMALL)
def test_neighbours_are_the_next_values(name):
    """All values of 8 bits; of 16 bits the extremes, those around powers of two, and every 97th."""
    values = sorted({v for n in patterns_of(name) if (v := decode(n, name)) == v})
    step = 1 if FORMATS[name].bits == 8 else 97
    powers = 1 << FORMATS[name].significand_bits
    for i, (lower, upper) in enumerate(itertools.pairwise(values)):
        if i % step == 0 or i % powers < 2 or lower == values[0] or upper == values[-1]:
            assert fields(upper, name).below == lower
            assert fields(lower, name).above == upper
    assert fields(values[-1], name).above is None
    assert fields(values[0], name).below is None


def test_kinds_and_signs():
    assert [fields(x, "float16").kind for x in (0.0, 1e-7, 1.0, math.inf, math.nan)] == [
        "zero", "subnormal", "normal", "infinity", "nan"
    ]  # fmt: skip
    assert [fields(x, "float8_e4m3").kind for x in (448.0, 464.0, 464.1, math.inf)] == [
        "normal", "normal", "nan", "nan"
    ]  # fmt: skip
    assert [fields(x, "float32").sign for x in (-0.0, 0.0, -math.inf, Fraction(-1, 3))] == [1, 0, 1, 1]
    assert (fields(math.nan, "float64").below, fields(math.nan, "float64").above) == (None, None)
    assert fields(math.inf, "float16").below == 65504


def test_unknown_formats_and_patterns_are_refused():
    with pytest.raises(UsageError, match="no format 'fp4'"):
        fields(1.0, "fp4")
    with pytest.raises(UsageError, match="takes 8 bits"):
        decode(256, "float8_e4m3")
