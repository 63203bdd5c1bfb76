"""The uniform grids: counts, ends, spacing."""

from __future__ import annotations

import numpy as np
import pytest

from mediant.methods.grids.uniform import Uniform


@pytest.mark.parametrize(
    ("kind", "first", "last", "count"),
    [
        ("signed", lambda b: -(2 ** (b - 1)), lambda b: 2 ** (b - 1) - 1, lambda b: 2**b),
        ("symmetric", lambda b: 1 - 2 ** (b - 1), lambda b: 2 ** (b - 1) - 1, lambda b: 2**b - 1),
        ("half", lambda b: 0.5 - 2 ** (b - 1), lambda b: 2 ** (b - 1) - 0.5, lambda b: 2**b),
        ("zero_point", lambda b: 0, lambda b: 2**b - 1, lambda b: 2**b),
    ],
)
@pytest.mark.parametrize("bits", range(2, 9))
def test_ends_and_steps(kind, first, last, count, bits):
    levels = Uniform(kind).levels(bits)
    assert (levels[0], levels[-1], len(levels)) == (first(bits), last(bits), count(bits))
    assert (np.diff(levels) == 1).all()


def test_one_bit():
    assert Uniform("half").levels(1).tolist() == [-0.5, 0.5]
    assert Uniform("zero_point").levels(1).tolist() == [0, 1]
    for kind in ("signed", "symmetric"):
        with pytest.raises(ValueError, match="2 to 8 bits, not 1"):
            Uniform(kind).levels(1)


def test_only_one_kind_has_a_zero_point():
    assert [Uniform(kind).zero_point for kind in ("signed", "symmetric", "half", "zero_point")] == [False] * 3 + [True]


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'round' is not one of signed, symmetric, half, zero_point"):
        Uniform("round")


def test_auto_is_half_up_to_two_bits_and_signed_above():
    for bits in range(1, 9):
        assert Uniform("auto").levels(bits).tolist() == Uniform("half" if bits <= 2 else "signed").levels(bits).tolist()
