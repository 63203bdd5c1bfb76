"""Lloyd tables: the conditions of optimality, known optima, and awkward samples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediant.methods.grids.lloyd import Lloyd, distinct, fit

# Max 1960, table I: the squared error of the optimal quantizer of a Gaussian with 2^b levels.
GAUSSIAN = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497, 5: 0.002499}


def squared_error(levels, values, h):
    return (h * np.abs(values[:, None] - levels).min(1) ** 2).sum()


def brute_force(values, h, count):
    """The least error over all cuts of sorted values into runs: the optimum, since cells are intervals."""
    best = np.inf
    for cuts in itertools.combinations(range(1, len(values)), count - 1):
        cells = np.split(np.arange(len(values)), cuts)
        means = np.array([np.average(values[c], weights=h[c]) for c in cells])
        best = min(best, squared_error(means, values, h))
    return best


@pytest.mark.parametrize("bits", GAUSSIAN)
def test_the_known_optimum_for_a_gaussian(bits):
    count = 1 << 18
    sample = np.random.default_rng(0).standard_normal(count)
    levels = Lloyd().levels(bits, sample)
    errors = np.abs(sample[:, None] - levels).min(1) ** 2
    # Max gives four digits; the table is fitted to its sample, which only helps it.
    assert errors.mean() < GAUSSIAN[bits] * (1 + 5e-4) + 4 * errors.std() / np.sqrt(count)
    assert errors.mean() > GAUSSIAN[bits] * (1 - 5e-4) - 4 * errors.std() / np.sqrt(count)


@pytest.mark.parametrize("bits", [6, 7, 8])
def test_many_levels_come_near_the_high_resolution_limit(bits):
    # Panter and Dite: (∫ f^(1/3))^3 / 12 / 4^b, which is √3 π/2 / 4^b for a Gaussian, is the limit from below.
    sample = np.random.default_rng(0).standard_normal(1 << 17)

    def error(levels):
        return np.square(sample - levels[np.searchsorted((levels[:-1] + levels[1:]) / 2, sample)]).mean() * 4**bits

    assert error(Lloyd().levels(bits, sample)) < np.sqrt(3) * np.pi / 2
    assert error(np.quantile(sample, (np.arange(2**bits) + 0.5) / 2**bits)) > np.sqrt(3) * np.pi / 2


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(1, 4))
def test_levels_are_means_of_their_cells(seed, size, bits):
    generator = np.random.default_rng(seed)
    values, h = distinct(generator.standard_t(2, size), generator.exponential(size=size))
    levels = fit(values, h, 2**bits, 10_000)
    assert len(levels) == min(2**bits, len(values))
    assert (np.diff(levels) > 0).all()
    cells = np.searchsorted((levels[:-1] + levels[1:]) / 2, values, side="left")
    # Means are quotients of differences of sums of `size` terms.
    rounding = size * 2.0**-50 * (h @ np.abs(values))
    for cell in np.unique(cells):
        inside = cells == cell
        moment = h[inside] @ values[inside] - levels[cell] * h[inside].sum()
        assert abs(moment) <= rounding


def test_no_round_adds_error_and_none_goes_below_the_optimum():
    generator = np.random.default_rng(0)
    for _ in range(10):
        values, h = distinct(generator.standard_normal(12), generator.exponential(size=12))
        errors = [squared_error(fit(values, h, 4, rounds), values, h) for rounds in range(8)]
        assert (np.diff(errors) <= 2.0**-45 * errors[0]).all()
        assert errors[-1] >= brute_force(values, h, 4) * (1 - 2.0**-45)


def test_as_many_values_as_levels_are_kept():
    sample = np.array([0.5, -1, 0.5, 0, 1])
    assert Lloyd().levels(2, sample).tolist() == [-1, 0, 0.5, 1]
    assert Lloyd().levels(8, np.zeros(10)).tolist() == [0]


def test_values_without_weight_do_not_count():
    generator = np.random.default_rng(0)
    sample, h = generator.standard_normal(500), (generator.random(500) < 0.5).astype(float)
    np.testing.assert_array_equal(Lloyd().levels(3, sample, h), Lloyd().levels(3, sample[h > 0]))


def test_weights_pull():
    sample = np.linspace(-1, 1, 1001)
    levels = Lloyd().levels(2, sample, np.where(sample > 0, 100.0, 1.0))
    assert (levels > 0).sum() > 2


def test_many_equal_values():
    generator = np.random.default_rng(0)
    sample = np.where(generator.random(5000) < 0.7, 0, generator.standard_normal(5000))
    levels = Lloyd().levels(4, sample)
    assert len(levels) == 16
    assert np.abs(levels).min() < 0.05


def test_no_rounds_keep_the_start_among_the_values():
    sample = np.random.default_rng(0).standard_normal(100)
    assert np.isin(Lloyd(rounds=0).levels(3, sample), sample).all()


@pytest.mark.parametrize(
    ("sample", "weights", "match"),
    [(None, None, "none is given"), (np.zeros(0), None, "has none"), (np.ones(3), np.zeros(3), "has none")],
)
def test_without_a_sample_it_is_refused(sample, weights, match):
    with pytest.raises(ValueError, match=match):
        Lloyd().levels(3, sample, weights)


def test_negative_rounds_are_refused():
    with pytest.raises(ValueError, match="at least 0"):
        Lloyd(rounds=-1)
