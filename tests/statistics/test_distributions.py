"""Families: each is recognised, is fitted at its likelihood's top, and moves with the unit of the values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mediant.statistics.distributions import Families, distance, families, fit_student_t, sample

N = 20_000
NEGLIGIBLE = 0.05  # nats in total, a tenth of what a needless parameter gains by chance
ROUNDING = N * float(np.finfo(np.float64).eps)  # of a mean of N terms of order one
LAWS = {
    "gaussian": stats.norm(0.3, 0.02),
    "laplace": stats.laplace(-1.0, 3.0),
    "student_t": stats.t(4.0, 0.1, 0.5),
    "uniform": stats.uniform(-2.0, 5.0),
}


def draw(name: str, seed: int = 0, n: int = N) -> np.ndarray:
    return LAWS[name].rvs(n, random_state=np.random.default_rng(seed))


def figures(found: Families) -> dict[str, tuple[float, ...]]:
    return {f.family: (f.log_likelihood, f.bic, f.distance, *f.parameters.values()) for f in found.fits}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LAWS)
def test_recognises_the_family(name: str, seed: int) -> None:
    found = families(draw(name, seed), seed)
    assert found.best == name
    assert [f.bic for f in found.fits] == sorted(f.bic for f in found.fits)


@pytest.mark.parametrize("degrees", [0.7, 1.0, 2.0, 8.0])
def test_recognises_heavier_and_lighter_tails(degrees: float) -> None:
    law = stats.t(degrees)
    x = law.rvs(N, random_state=np.random.default_rng(2))
    best = families(x).fits[0]
    assert best.family == "student_t"
    assert by_chance(N * best.log_likelihood - float(law.logpdf(x).sum()), 3)
    wrong = stats.t(best.parameters["degrees"] * 1.3, best.parameters["location"], best.parameters["scale"])
    assert not by_chance(N * best.log_likelihood - float(wrong.logpdf(x).sum()), 3)


def by_chance(gain: float, parameters: int) -> bool:
    """Whether fitted parameters are as likely as the true ones: twice the gain is chi-square (Wilks 1938)."""
    return 0 <= 2 * gain < stats.chi2(parameters).isf(1e-6)


@pytest.mark.parametrize("name", LAWS)
def test_the_fit_is_as_likely_as_the_truth(name: str) -> None:
    x = draw(name)
    fit = next(f for f in families(x).fits if f.family == name)
    assert by_chance(N * fit.log_likelihood - float(LAWS[name].logpdf(x).sum()), len(fit.parameters))


def test_student_t_is_as_likely_as_scipy_finds_it() -> None:
    x = np.sort(draw("student_t", n=800))
    reference = float(stats.t(*stats.t.fit(x)).logpdf(x).sum())
    found = fit_student_t(x)
    assert found.log_likelihood * x.size >= reference - NEGLIGIBLE
    p = found.parameters
    worse = float(stats.t(p["degrees"] * 1.3, p["location"], p["scale"]).logpdf(x).sum())
    assert worse < reference - NEGLIGIBLE  # the comparison can fail


def test_a_gaussian_pays_for_the_third_parameter() -> None:
    fits = {f.family: f for f in families(draw("gaussian")).fits}
    gain = N * (fits["student_t"].log_likelihood - fits["gaussian"].log_likelihood)
    assert -NEGLIGIBLE <= gain < math.log(N) / 2
    assert fits["gaussian"].bic < fits["student_t"].bic


@pytest.mark.parametrize("name", LAWS)
def test_the_unit_does_not_matter(name: str) -> None:
    """A power of two changes no digit, so everything but the scale is the same, and ln f falls by its logarithm."""
    x = draw(name)
    one, other = figures(families(x)), figures(families(1024 * x))
    for family in one:
        assert one[family][0] == pytest.approx(other[family][0] + math.log(1024), abs=ROUNDING)
        assert one[family][2] == pytest.approx(other[family][2], abs=ROUNDING)
    assert families(x).best == families(1024 * x).best


@pytest.mark.parametrize("name", LAWS)
def test_distance_is_that_of_kolmogorov_and_smirnov(name: str) -> None:
    x = np.sort(draw(name, n=300))
    expected = stats.kstest(x, LAWS[name].cdf).statistic
    assert distance(x, LAWS[name].cdf) == expected
    assert distance(x, lambda v: LAWS[name].cdf(v + LAWS[name].std())) > expected + 0.1


def test_the_right_family_is_close() -> None:
    """The distance to the true law exceeds the limit once in ten thousand times; fitting tends to lower it."""
    limit = stats.kstwobign.isf(1e-4) / math.sqrt(N)
    for name in LAWS:
        by_family = {f.family: f.distance for f in families(draw(name)).fits}
        assert by_family[name] < limit
        assert max(by_family.values()) > limit


def test_a_sample_does_not_alias_with_columns() -> None:
    matrix = np.zeros((8192, 64), np.float32)
    matrix[:, 5] = 1
    share, expected = sample(matrix, seed=0, size=8192).mean(), 1 / 64
    assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / 8192)
    assert matrix.ravel()[:: matrix.size // 8192].mean() in (0, 1)  # what a plain stride sees


def test_a_sample_takes_one_value_from_each_stretch() -> None:
    found = sample(np.arange(10_000), seed=3, size=100)
    assert np.all(np.diff(found) > 0)
    assert np.array_equal(found // 100, np.arange(100))
    assert np.array_equal(found, sample(np.arange(10_000), seed=3, size=100))
    assert not np.array_equal(found, sample(np.arange(10_000), seed=4, size=100))
    assert np.array_equal(sample(np.arange(7), seed=0, size=100), np.arange(7))


@pytest.mark.parametrize("values", [np.zeros(100), np.full(3, 0.1), np.array([2.0]), np.zeros(0)])
def test_constants_have_no_family(values: np.ndarray) -> None:
    found = families(values)
    assert (found.best, found.fits, found.sample) == ("constant", (), values.size)


@pytest.mark.parametrize("zeros", [10, 400, 990])
def test_ties_leave_every_figure_finite(zeros: int) -> None:
    x = np.random.default_rng(0).standard_normal(1000)
    x[:zeros] = 0
    assert all(math.isfinite(v) for fit in figures(families(x)).values() for v in fit)


def test_two_values_are_enough() -> None:
    assert all(math.isfinite(v) for fit in figures(families(np.array([0.0, 1.0]))).values() for v in fit)
