"""Spectra: LAPACK's SVD as oracle, orthogonal invariance, known ranks, Parseval, white noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.statistics import spectrum as module
from mediant.statistics.spectrum import (
    effective_rank,
    energy_rank,
    power,
    singular_values,
    smoothness,
    spectrum,
    stable_rank,
)

EPS = float(np.finfo(np.float64).eps)
SHAPES = [(1, 1), (1, 7), (7, 1), (5, 5), (40, 13), (13, 40), (2, 300)]


def matrix(m: int, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((m, n))


def orthogonal(n: int, seed: int) -> np.ndarray:
    return np.linalg.qr(matrix(n, n, seed))[0]


def assert_values(found: np.ndarray, expected: np.ndarray, longest: int) -> None:
    """Equal squares up to the error of a Gram matrix: `longest` rounded products a entry, k entries a row."""
    assert found.shape == expected.shape
    limit = 4 * longest * found.size * EPS * expected[0] ** 2
    assert np.all(np.abs(found**2 - expected**2) <= limit)
    assert np.all(found >= 0)
    assert np.all(np.diff(found) <= 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_are_those_of_lapack(shape: tuple[int, int]) -> None:
    a = matrix(*shape)
    assert_values(singular_values(a), np.linalg.svd(a, compute_uv=False), max(shape))


def test_singular_values_see_neither_rotation_nor_transposition() -> None:
    a = matrix(30, 12)
    expected = singular_values(a)
    assert_values(singular_values(orthogonal(30, 1) @ a @ orthogonal(12, 2)), expected, 30)
    assert_values(singular_values(a.T), expected, 30)
    assert_values(singular_values(np.asfortranarray(a)), expected, 30)


@pytest.mark.parametrize(
    "spoil", [lambda s: s[::-1], lambda s: -s, lambda s: 1.001 * s, lambda s: s[:-1], lambda s: s * np.nan]
)
def test_the_comparator_sees_wrong_values(spoil) -> None:
    expected = singular_values(matrix(30, 12))
    with pytest.raises(AssertionError):
        assert_values(spoil(expected), expected, 30)


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    a = matrix(50, 9)
    values, energy = singular_values(a), power(a)
    monkeypatch.setattr(module, "BLOCK", 20)
    assert_values(singular_values(a), values, 50)
    assert_values(singular_values(a.T), values, 50)
    assert np.all(np.abs(power(a) - energy) <= 50 * EPS * energy.sum())


@pytest.mark.parametrize("n", [1, 2, 64, 333])
def test_the_effective_rank_of_the_identity_is_its_size(n: int) -> None:
    found = spectrum(np.eye(n, dtype=np.float32))
    assert found.effective_rank == pytest.approx(n, rel=4 * n * EPS)
    assert found.stable_rank == n
    assert (found.rank_90, found.rank_99) == (math.ceil(0.9 * n), math.ceil(0.99 * n))


@pytest.mark.parametrize("shape", SHAPES)
def test_rank_one_is_one_everywhere(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    found = spectrum(np.outer(rng.standard_normal(shape[0]), rng.standard_normal(shape[1])))
    assert (found.effective_rank, found.stable_rank, found.rank_90, found.rank_99) == (1, 1, 1, 1)


def test_a_zero_matrix_has_no_rank() -> None:
    found = spectrum(np.zeros((6, 4), np.float32))
    assert (found.effective_rank, found.stable_rank, found.rank_90, found.rank_99) == (0, 0, 0, 0)
    assert np.array_equal(found.singular_values, np.zeros(4))
    assert math.isnan(found.smoothness_inputs)
    assert math.isnan(found.smoothness_outputs)


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=30))
def test_ranks_keep_their_order_and_bounds(values: list[float]) -> None:
    """1 <= stable rank and effective rank <= number of positive values (Roy and Vetterli 2007, property 1)."""
    s = np.sort(np.array(values))[::-1]
    s = s[s > 1e-3 * s[0]] if s[0] > 1e-3 else np.ones(1)
    slack = 1 + 8 * s.size * EPS
    assert effective_rank(s) * slack >= 1
    assert effective_rank(s) <= s.size * slack
    assert stable_rank(s) * slack >= 1
    assert stable_rank(s) <= s.size * slack
    for share in (0.5, 0.9, 0.99):
        k = energy_rank(s, share)
        total = (s**2).sum()
        assert (s[:k] ** 2).sum() >= share * total * (1 - s.size * EPS)
        assert (s[: k - 1] ** 2).sum() < share * total * (1 + s.size * EPS)


def test_effective_rank_is_the_exponential_of_the_entropy() -> None:
    assert effective_rank(np.array([2.0, 1.0, 1.0])) == pytest.approx(2**1.5, rel=8 * EPS)  # entropy of 1.5 bits


@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 99))
def test_parseval(m: int, n: int, seed: int) -> None:
    a = matrix(m, n, seed)
    energy = float((a**2).sum())
    assert power(a).shape == (n // 2 + 1,)
    assert abs(float(power(a).sum()) - energy) <= 4 * m * n * EPS * energy
    assert abs(float(power(a)[:-1].sum()) - energy) > 4 * m * n * EPS * energy  # the check can fail


@pytest.mark.parametrize("n", [16, 33, 100, 576])
def test_white_noise_is_not_smooth(n: int) -> None:
    """The share of a band of white noise has a Beta law, since an orthogonal transform of it is white again."""
    m = 400
    white = (1 + 2 * int(n // 2 / 8)) / n
    error = math.sqrt((1 - white) / white / (m * n / 2 + 1))
    assert abs(smoothness(power(matrix(m, n, n)), n) - 1) < 5 * error
    rough = matrix(m, n, n) * (-1.0) ** np.arange(n) + 1
    assert abs(smoothness(power(rough), n) - 1) > 5 * error


def test_pure_waves_are_smooth_or_rough() -> None:
    n = 64
    columns = np.arange(n)
    for k in range(n // 2 + 1):
        wave = np.tile(np.cos(2 * np.pi * k * columns / n), (3, 1))
        expected = n / (1 + 2 * 4) if k <= 4 else 0
        assert smoothness(power(wave), n) == pytest.approx(expected, abs=n * n * EPS)


def test_inputs_are_along_rows_and_outputs_down_columns() -> None:
    smooth_along_rows = matrix(128, 1) @ np.ones((1, 128))
    one, other = spectrum(smooth_along_rows), spectrum(smooth_along_rows.T)
    assert one.smoothness_inputs == other.smoothness_outputs == pytest.approx(128 / 17, rel=128 * EPS)
    assert one.smoothness_outputs == other.smoothness_inputs < 2
