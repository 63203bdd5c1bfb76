"""One sum at a time in doubles, odd sizes, and the order of the terms."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.kernels.factor_product import factor_product, factor_product_reference


def float32(value: float) -> float:
    (rounded,) = struct.unpack("<f", struct.pack("<f", value))
    return float(rounded)


@st.composite
def cases(draw):
    rows, rank, columns = (draw(st.integers(0, 70)) for _ in range(3))
    generator = np.random.default_rng(draw(st.integers(0, 1 << 32)))

    def numbers(*shape):
        spread = np.exp2(generator.integers(-20, 20, size=shape))
        return (generator.standard_normal(shape) * spread).astype(np.float32)

    return numbers(rows, rank), numbers(rank, columns), numbers(rows, columns) if draw(st.booleans()) else None


def by_definition(left, right, start):
    out = np.zeros((len(left), right.shape[1]), np.float32)
    for i in range(len(left)):
        for j in range(right.shape[1]):
            total = 0.0 if start is None else float(start[i, j])
            for k in range(len(right)):
                total += float(left[i, k]) * float(right[k, j])
            out[i, j] = float32(total)
    return out


@given(cases())
def test_native_is_the_reference(case):
    np.testing.assert_array_equal(factor_product(*case), factor_product_reference(*case))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (7, 33, 41), (2, 0, 5), (0, 3, 4), (5, 4, 0)])
def test_sums_are_taken_in_order(shape):
    rows, rank, columns = shape
    generator = np.random.default_rng(rank)
    case = [generator.standard_normal(s).astype(np.float32) for s in ((rows, rank), (rank, columns), (rows, columns))]
    for start in (None, case[2]):
        np.testing.assert_array_equal(factor_product(case[0], case[1], start), by_definition(*case[:2], start))


def test_another_order_would_be_seen():
    """Terms that cancel: 2^60 + 1 - 2^60 is 0 from left to right in doubles, 1 in another order."""
    left, right = np.float32([[2.0**40, 1, -(2.0**40)]]), np.float32([[2.0**20], [1], [2.0**20]])
    assert factor_product(left, right).item() == 0.0
    assert factor_product(left[:, [0, 2, 1]], right[[0, 2, 1]]).item() == 1.0


def test_what_is_added_to_is_not_changed():
    start = np.ones((2, 2), np.float32)
    factor_product(np.ones((2, 1), np.float32), np.ones((1, 2), np.float32), start)
    assert (start == 1).all()


@pytest.mark.parametrize("shapes", [((2, 3), (4, 5), None), ((2, 3), (3, 5), (2, 4))])
def test_shapes_that_do_not_fit_are_refused(shapes):
    left, right, start = (None if s is None else np.zeros(s, np.float32) for s in shapes)
    with pytest.raises(ValueError, match="do not fit"):
        factor_product(left, right, start)
