"""Companded matrices: what is stored comes back, and what does not fit is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.forms.compand.companded_matrix import CompandedMatrix, cluster_count, code_bytes, levels
from mediant.forms.compand.form import Compand, Length
from mediant.kernels.bfloat16 import from_float32, to_float32
from mediant.kernels.bit_planes import pack
from mediant.values import TensorInfo


@st.composite
def matrices(draw):
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    size = draw(st.integers(1, 9))
    rows, columns = draw(st.integers(1, 20)), draw(st.integers(1, 9))
    count = cluster_count(rows, size)
    clusters = generator.permutation(np.arange(rows) * count // rows).astype(np.uint8)
    bit_widths = generator.integers(0, 9, (count, columns)).astype(np.uint8)
    codes = (generator.integers(0, 256, (rows, columns)) % (1 << bit_widths[clusters].astype(int))).astype(np.uint8)
    scales, centres = (to_float32(from_float32(generator.random(bit_widths.shape, np.float32))) for _ in range(2))
    return CompandedMatrix(codes, clusters, bit_widths, scales, centres), size


@given(matrices())
def test_parts_come_back_in_the_shapes_that_were_planned(case):
    matrix, size = case
    rows, columns = matrix.codes.shape
    parts = matrix.parts()
    plan = Compand(multiplier=1.0, rate=3.0, cluster=size)
    side = Length(code_bytes(matrix.bit_widths, matrix.clusters))
    info = TensorInfo("w", (rows, columns), "float32", "linear", "out_in")
    names = {"uint8": np.uint8, "bfloat16": np.uint16}
    expected = {name: (names[kind], shape) for name, (kind, shape) in plan.parts(info, side).items()}
    assert {name: (part.dtype, part.shape) for name, part in parts.items()} == expected
    again = CompandedMatrix.from_parts(parts, rows, columns)
    for name, value in vars(matrix).items():
        np.testing.assert_array_equal(getattr(again, name), value)


@given(matrices())
def test_weights_are_those_of_the_formula(case):
    matrix, _ = case
    found = matrix.matrix()
    for i, j in np.ndindex(matrix.codes.shape):
        cluster = matrix.clusters[i]
        bits = int(matrix.bit_widths[cluster, j])
        t = 0.0
        if bits:
            u = (int(matrix.codes[i, j]) + 0.5) / 2**bits
            t = math.copysign(3 / math.sqrt(2), u - 0.5) * -math.log(1 - abs(2 * u - 1))
        exact = float(matrix.centres[cluster, j]) + float(matrix.scales[cluster, j]) * t
        # Three roundings to float32: of t, of the product, of the sum.
        assert abs(found[i, j] - exact) <= 2.0**-23 * (abs(float(matrix.scales[cluster, j]) * t) + abs(exact))


def test_levels_are_odd_and_ascend():
    for bits in range(1, 9):
        t = levels(bits)
        assert (np.diff(t) > 0).all()
        np.testing.assert_array_equal(t, -t[::-1])


def small():
    bit_widths = np.array([[2, 0, 8]], np.uint8)
    ones = np.ones((1, 3), np.float32)
    return CompandedMatrix(np.zeros((4, 3), np.uint8), np.zeros(4, np.uint8), bit_widths, ones, ones)


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("codes", np.zeros(4, np.uint8), "as many codes"),
        ("codes", np.zeros(6, np.uint8), "as many codes"),
        ("bit_widths", pack(np.array([2, 0, 9], np.uint8), 4), "9 bits"),
        ("clusters", pack(np.array([0, 1, 0, 0], np.uint8), 1), "clusters"),
    ],
)
def test_parts_that_do_not_fit_are_refused(part, value, words):
    parts = small().parts()
    CompandedMatrix.from_parts(parts, 4, 3)
    with pytest.raises(ValueError, match=words):
        CompandedMatrix.from_parts(parts | {part: value}, 4, 3)
