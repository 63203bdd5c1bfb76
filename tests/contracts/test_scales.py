"""What every scale promises, checked on every file of methods/scales with every shape of grid."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mediant import discovery
from mediant.kernels.nearest_code import nearest_code
from mediant.methods.scales import Fit

SCALES = discovery.names("scales")
GRIDS = {
    "signed": ({"name": "uniform"}, 3),
    "symmetric": ({"name": "uniform", "kind": "symmetric"}, 3),
    "half": ({"name": "uniform", "kind": "half"}, 2),
    "zero_point": ({"name": "uniform", "kind": "zero_point"}, 2),
    "binary": ({"name": "binary"}, 1),
    "log2": ({"name": "log2"}, 4),
    "farey": ({"name": "farey"}, 4),
    "floats": ({"name": "floats"}, 4),
}
FLOAT32_EPSILON = 2.0**-23

pytestmark = [pytest.mark.parametrize("name", SCALES), pytest.mark.parametrize("grid", GRIDS)]


def fit(name, grid, groups, weights=None):
    """Fits, or skips what the method says it cannot serve."""
    spec, bits = GRIDS[grid]
    made = discovery.make("grids", spec)
    try:
        return discovery.make("scales", {"name": name}).fit(
            np.asarray(groups, np.float32), weights, made.levels(bits), made.zero_point
        )
    except ValueError as refusal:
        pytest.skip(str(refusal))


def check(result: Fit, groups):
    """The contract of one fit."""
    assert isinstance(result, Fit)
    for part in result:
        assert part.dtype == np.float32
        assert part.shape == (len(groups),)
        assert np.isfinite(part).all()
    assert (result.zero == np.rint(result.zero)).all()


def error(w, h, result, grid):
    """Σ h (w - w^)^2 of each group with nearest codes."""
    levels = discovery.make("grids", GRIDS[grid][0]).levels(GRIDS[grid][1])
    points = levels[nearest_code(w, *result, levels)] - result.zero[:, None]
    return (h * (w - result.scale.astype(np.float64)[:, None] * points) ** 2).sum(1)


def examples(size=33, count=60):
    generator = np.random.default_rng(size)
    w = generator.standard_t(3, (count, size)).astype(np.float32)
    w[:3] = np.abs(w[:3])
    w[3:5] = -np.abs(w[3:5])
    w[5, ::2] = 0
    h = generator.exponential(size=(count, size)).astype(np.float32)
    h[generator.random(h.shape) < 0.2] = 0
    h[:, 0] = 1
    return w, h


@pytest.mark.parametrize("shape", [(0, 64), (3, 0), (0, 0), (5, 1), (7, 3), (4, 63), (2, 257)])
@pytest.mark.parametrize("weighted", [False, True])
def test_any_shape(name, grid, shape, weighted):
    generator = np.random.default_rng(0)
    w = generator.standard_normal(shape, np.float32)
    check(fit(name, grid, w, generator.random(shape, np.float32) if weighted else None), w)


def test_zeros_take_scale_zero(name, grid):
    w = np.zeros((2, 8), np.float32)
    w[1, 3] = 1
    result = fit(name, grid, w)
    check(result, w)
    assert result.scale[0] == 0
    assert result.scale[1] != 0


def test_a_group_without_a_weight_that_counts_takes_scale_zero(name, grid):
    w = np.ones((1, 8), np.float32)
    assert fit(name, grid, w, np.zeros_like(w)).scale[0] == 0


@pytest.mark.parametrize("exponent", [-20, -1, 3, 30])
def test_scaled_weights_get_a_scaled_scale(name, grid, exponent):
    w, h = examples()
    factor = np.float32(2.0**exponent)
    once, again = fit(name, grid, w, h), fit(name, grid, w * factor, h)
    assert (once.scale != 0).any()
    np.testing.assert_array_equal(again.scale, once.scale * factor)
    np.testing.assert_array_equal(again.zero, once.zero)


def test_the_order_of_weights_does_not_matter(name, grid):
    w, h = examples()
    order = np.random.default_rng(1).permutation(w.shape[1])
    once, again = fit(name, grid, w, h), fit(name, grid, w[:, order], h[:, order])
    # Methods that add floats in the order given may round differently, by one unit of float32.
    np.testing.assert_allclose(again.scale, once.scale, rtol=FLOAT32_EPSILON)
    np.testing.assert_array_equal(again.zero, once.zero)


def test_a_single_outlier(name, grid):
    w, _ = examples()
    w[:, 4] = 1e6
    result = fit(name, grid, w)
    check(result, w)
    assert (result.scale != 0).all()


def test_extreme_magnitudes_stay_finite(name, grid):
    largest = np.finfo(np.float32).max
    w = np.array([[largest, -largest, 1], [1e-45, 0, -1e-45], [largest, 1e-45, 0]], np.float32)
    check(fit(name, grid, w), w)


def test_no_sensitivities_are_sensitivities_of_one(name, grid):
    w, _ = examples()
    for part, same in zip(fit(name, grid, w), fit(name, grid, w, np.ones_like(w)), strict=True):
        np.testing.assert_array_equal(part, same)


def test_entries_without_sensitivity_do_not_count(name, grid):
    w, h = examples()
    other = np.where(h == 0, 100 * w - 7, w).astype(np.float32)
    for part, same in zip(fit(name, grid, w, h), fit(name, grid, other, h), strict=True):
        np.testing.assert_array_equal(part, same)


@pytest.mark.parametrize("weighted", [False, True])
def test_none_has_less_squared_error_than_exact(name, grid, weighted):
    w, h = examples()
    h = h if weighted else np.ones_like(h)
    exact, other = fit("exact", grid, w, h), fit(name, grid, w, h)
    # Rounding a scale to float32 adds at most Σ h l^2 (s 2^-24)^2 = 2^-48 Σ h w^^2, and Σ h w^^2 <= Σ h w^2 at the
    # optimum; what float64 sums lose is below n 2^-53 of Σ h w^2.
    slack = (h * w.astype(np.float64) ** 2).sum(1) * (2.0**-48 + w.shape[1] * 2.0**-51)
    assert (error(w, h, exact, grid) <= error(w, h, other, grid) + slack).all()
    worse = exact._replace(scale=exact.scale * np.float32(1.01))
    assert not (error(w, h, worse, grid) <= error(w, h, exact, grid) + slack).all()


def test_a_spec_comes_back_through_json(name, grid):
    method = discovery.make("scales", {"name": name})
    assert discovery.make("scales", json.loads(json.dumps(discovery.spec(method)))) == method
