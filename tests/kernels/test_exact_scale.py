"""The exact scale against brute force over all choices of levels, and the native sweep against the reference."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mediant.kernels import exact_scale as module
from mediant.kernels import native
from mediant.kernels.exact_scale import exact_scale, exact_scale_reference
from mediant.kernels.nearest_code import nearest_code

GRIDS = {
    "one bit": np.array([-1.0, 1]),
    "half": np.array([-1.5, -0.5, 0.5, 1.5]),
    "signed": np.array([-2.0, -1, 0, 1]),
    "ternary": np.array([-1.0, 0, 1]),
    "Farey": np.array([-2.0, -1, 0, 1, 2]),
    "uneven": np.array([-0.25, 0.5, 1]),
    "one side": np.array([1.0, 2, 3]),
    "other side": np.array([-4.0, -1]),
    "tie at zero": np.array([-3.0, -1, 1, 2]),
    "one level": np.array([2.0]),
    "only zero": np.array([0.0]),
}
SIGNED = {bits: np.arange(-(2.0 ** (bits - 1)), 2.0 ** (bits - 1)) for bits in range(2, 9)}
TABLES = [
    (np.array([-0.9, -0.2, 0.05, 0.4, 1.1]), False), (np.arange(-4.0, 4), False), (np.arange(-3.5, 4), False),
    (np.arange(8.0), True), (2.0 ** np.arange(-126, 1), False), (np.array([2.0]), False),
    (np.arange(-128.0, 128), False),
]  # fmt: skip
needs_native = pytest.mark.skipif(native is None, reason="the native kernels were not built")


def decoded_levels(w, scale, zero, levels):
    return levels[nearest_code(w[None], scale, zero, levels)[0]] - zero[0]


def excess(w, h, scale, zero, levels, optimum):
    """Error at the given scale beyond the optimum, and what rounding the scale to float32 explains, as fractions.

    At fixed levels the error is optimum + B (s - A/B)^2, and a float32 scale is within 2^-24 |s| of A/B, or a little
    more since A and B are rounded too.
    """
    points = [Fraction(float(x)) for x in decoded_levels(w, scale, zero, levels)]
    s = Fraction(float(scale[0]))
    error = sum(Fraction(float(a)) * (Fraction(float(x)) - s * p) ** 2 for a, x, p in zip(h, w, points, strict=True))
    b = sum(Fraction(float(a)) * p**2 for a, p in zip(h, points, strict=True))
    return error - optimum, b * (s * (1 + Fraction(1, 2**20)) / 2**24) ** 2


def is_optimal(w, h, scale, zero, levels, optimum):
    if not np.isfinite(scale).all():
        return False
    beyond, allowed = excess(w, h, scale, zero, levels, optimum)
    return beyond <= allowed


def least_error(w, h, levels, zeros):
    """The least Σ h (w - s (l - z))^2 over every choice of levels and zeros and every real s."""
    w, h = [Fraction(float(x)) for x in w], [Fraction(float(x)) for x in h]
    best = Fraction(0)
    for zero in zeros:
        points = [Fraction(float(level)) - Fraction(float(zero)) for level in levels]
        terms = [[(a * x * p, a * p * p) for p in points] for a, x in zip(h, w, strict=True)]
        for choice in itertools.product(*terms):
            a, b = sum(t[0] for t in choice), sum(t[1] for t in choice)
            best = max(best, a * a / b if b else Fraction(0))
    return sum(a * x * x for a, x in zip(h, w, strict=True)) - best


@pytest.mark.parametrize("grid", GRIDS)
def test_all_small_groups(grid):
    levels = GRIDS[grid]
    sensitivities = [np.float32(h) for h in ((1, 1, 1), (1, 2, 0.5), (0, 1, 3))]
    for group in itertools.combinations_with_replacement(range(-3, 4), 3):
        w = np.float32(group)
        for h in sensitivities:
            scale, zero = exact_scale(w[None], h[None], levels, False)
            assert is_optimal(w, h, scale, zero, levels, least_error(w, h, levels, [0])), (group, h, scale)


@pytest.mark.parametrize("bits", [1, 2])
def test_all_small_groups_with_a_zero_point(bits):
    levels = np.arange(2.0**bits)
    for group in itertools.product(range(-2, 4), repeat=3):
        w, h = np.float32(group), np.float32([1, 2, 0.5])
        scale, zero = exact_scale(w[None], h[None], levels, True)
        assert scale[0] >= 0
        assert zero[0] in levels
        assert is_optimal(w, h, scale, zero, levels, least_error(w, h, levels, levels)), (group, scale, zero)


@settings(max_examples=150)
@given(st.sampled_from(sorted(GRIDS)), st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_random_groups(grid, seed, size):
    generator = np.random.default_rng(seed)
    w = generator.standard_t(2, size).astype(np.float32)
    h = generator.exponential(size=size).astype(np.float32)
    scale, zero = exact_scale(w[None], h[None], GRIDS[grid], False)
    assert is_optimal(w, h, scale, zero, GRIDS[grid], least_error(w, h, GRIDS[grid], [0]))


def test_the_comparison_fails_on_a_wrong_scale():
    w, h, levels = np.float32([1, -2, 3.5]), np.ones(3, np.float32), GRIDS["signed"]
    scale, zero = exact_scale(w[None], None, levels, False)
    optimum = least_error(w, h, levels, [0])
    assert is_optimal(w, h, scale, zero, levels, optimum)
    for wrong in (scale * 1.0001, -scale, 2 * scale, 0 * scale, scale + np.inf, scale + np.nan):
        assert not is_optimal(w, h, wrong.astype(np.float32), zero, levels, optimum)
    assert not is_optimal(w, h, scale, zero + 1, levels, optimum)


@pytest.mark.parametrize("end", ["inner", "outer"])
@pytest.mark.parametrize("kind", ["gaussian", "laplacian"])
def test_a_seventh_less_error_than_absmax_at_three_bits(kind, end):
    # 1 - exact/absmax in squared error is 50 % (inner) and 15.6 % (outer) for Gaussian weights in groups of 64.
    generator = np.random.default_rng(0)
    draw = generator.standard_normal if kind == "gaussian" else generator.laplace
    w = draw(size=(8000, 64)).astype(np.float32)
    levels, most = SIGNED[3], w[np.arange(len(w)), np.abs(w).argmax(1)]
    absmax = np.abs(most) / 3 if end == "inner" else most / -4
    exact, zero = exact_scale(w, None, levels, False)
    errors = [
        np.square(w - s[:, None].astype(np.float64) * levels[nearest_code(w, s.astype(np.float32), zero, levels)]).sum(
            1
        )
        for s in (exact, absmax)
    ]
    assert errors[0].sum() / errors[1].sum() < 0.85


def assert_native_equals_reference(w, h, levels, zero_point):
    _, _, outward = module._candidates(levels, zero_point)
    step, choice = exact_scale_reference(w, h, outward)
    for threads in (1, 3):
        got_step, got_choice = np.full(len(w), np.nan), np.full(len(w), -1, np.int32)
        weights = np.zeros((0, 0), np.float32) if h is None else h
        native.exact_scale(w, weights, outward, got_step, got_choice, threads)
        np.testing.assert_array_equal(got_step, step)
        np.testing.assert_array_equal(got_choice, choice)


@needs_native
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (3, 1), (7, 2), (5, 63), (3, 129), (1, 1000)])
@pytest.mark.parametrize(("levels", "zero_point"), TABLES)
@pytest.mark.parametrize("weighted", [False, True])
def test_native_equals_reference(shape, levels, zero_point, weighted):
    generator = np.random.default_rng(shape[1])
    w = generator.standard_t(2, shape).astype(np.float32)
    h = np.maximum(0, generator.standard_normal(shape, np.float32)) if weighted else None
    assert_native_equals_reference(w, h, levels, zero_point)


@needs_native
@pytest.mark.parametrize("bits", SIGNED)
def test_native_equals_reference_at_every_bit_width(bits):
    w = np.random.default_rng(bits).laplace(size=(20, 64)).astype(np.float32)
    assert_native_equals_reference(w, None, SIGNED[bits], False)


@needs_native
@pytest.mark.parametrize("bits", [2, 3, 6])
def test_native_equals_reference_on_awkward_groups(bits):
    generator = np.random.default_rng(bits)
    size = 301
    w = np.zeros((12, size), np.float32)
    w[0] = 1  # every breakpoint of a step at once, far more than a bucket takes
    w[1] = generator.choice([-1, 1], size)
    w[2] = generator.choice([-2, -1, 0, 1, 3], size)
    w[3] = 1 + generator.random(size) * 1e-5
    w[4] = generator.standard_normal(size) * np.where(np.arange(size) < 4, 1e6, 1)
    w[5] = 2.0 ** generator.integers(-140, 120, size)
    w[6, 7] = -1e-45
    w[7] = -0.0
    w[8, ::2] = np.finfo(np.float32).max
    w[9] = np.abs(generator.standard_normal(size))
    w[10] = -w[9]
    w[11] = generator.integers(-50, 50, size)
    assert_native_equals_reference(w, None, SIGNED[bits], False)
    h = (2.0 ** generator.integers(-100, 3, w.shape)).astype(np.float32)
    assert_native_equals_reference(w, h, SIGNED[bits], False)


@needs_native
@settings(max_examples=200)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 12)).flatmap(
        lambda shape: st.tuples(
            arrays(np.float32, shape, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
            arrays(np.float32, shape, elements=st.floats(0, 2.0**20, width=32)),
        )
    ),
    st.sampled_from(TABLES),
)
def test_native_equals_reference_on_any_floats(values, table):
    w, h = values
    assert_native_equals_reference(w, np.abs(h), *table)


@pytest.mark.parametrize(("levels", "zero_point"), TABLES)
def test_the_order_of_a_group_changes_no_bit(levels, zero_point):
    generator = np.random.default_rng(0)
    w, h = generator.integers(-9, 10, (50, 40)).astype(np.float32), generator.random((50, 40), np.float32)
    order = generator.permutation(40)
    for part, same in zip(
        exact_scale(w, h, levels, zero_point), exact_scale(w[:, order], h[:, order], levels, zero_point), strict=True
    ):
        np.testing.assert_array_equal(part, same)


def test_without_native_kernels_the_result_is_the_same(monkeypatch):
    w = np.random.default_rng(0).standard_normal((9, 33)).astype(np.float32)
    expected = exact_scale(w, None, SIGNED[3], False)
    monkeypatch.setattr(module, "native", None)
    for part, same in zip(exact_scale(w, None, SIGNED[3], False), expected, strict=True):
        np.testing.assert_array_equal(part, same)


def test_a_strided_view_is_read_right():
    w = np.random.default_rng(0).standard_normal((64, 9)).astype(np.float32)
    np.testing.assert_array_equal(
        exact_scale(w.T, None, SIGNED[3], False)[0], exact_scale(w.T.copy(), None, SIGNED[3], False)[0]
    )


def test_weights_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="shape"):
        exact_scale(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32), SIGNED[2], False)
