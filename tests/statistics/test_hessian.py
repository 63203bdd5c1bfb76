"""Hessians against their definition, and shrinkage against its own and for what it is there for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mediant.statistics.hessian import Accumulator, gram, shrinkage, whole


def tokens(windows, length, columns, seed=0):
    """Inputs [windows, length, columns] whose tokens are alike within a window."""
    g = np.random.default_rng(seed)
    mixing = np.eye(columns) + 0.5 * g.normal(size=(columns, columns)) / np.sqrt(columns)
    raw = g.normal(size=(windows, length, columns)) + g.normal(size=(windows, 1, columns))
    return torch.from_numpy(raw @ mixing).float(), 2 * mixing.T @ mixing


def accumulated(x, folder):
    found = Accumulator()
    for number, window in enumerate(x):
        found.add("a.weight", number, window, window)
        found.finish(number)
    return found.store(folder, x.shape[0] * x.shape[1])


@pytest.mark.parametrize("columns", [1, 5, 256, 300, 513])
def test_the_triangle_is_that_of_the_product(columns):
    x = torch.from_numpy(np.random.default_rng(1).integers(-8, 9, (7, columns))).float()
    assert torch.equal(whole(gram(x)), x.T @ x)


@pytest.mark.parametrize("windows", [1, 2, 9])
def test_the_share_is_its_definition_and_the_diagonal_stays(windows, tmp_path):
    x, _ = tokens(windows, 11, 6)
    each = np.stack([(w.T @ w / 11).double().numpy() for w in x])
    mean, off = each.mean(axis=0), ~np.eye(6, dtype=bool)
    variance = each.var(axis=0, ddof=1) / windows if windows > 1 else np.zeros((6, 6))
    share = min(1.0, variance[off].sum() / np.square(mean[off]).sum())
    found = accumulated(x, tmp_path)
    eps = 100 * float(np.finfo(np.float32).eps)
    assert found.shrinkage("a.weight") == pytest.approx(share, rel=eps, abs=eps)
    expected = (1 - share) * mean + share * np.diag(np.diag(mean))
    np.testing.assert_allclose(found.of("a.weight"), expected, rtol=eps, atol=eps * np.abs(mean).max())
    assert found.of("other") is found.shrinkage("other") is None


def test_the_shrunk_estimate_is_nearer_the_truth_and_shrinks_less_with_more_text(tmp_path):
    shares, gains = [], []
    for windows in (4, 16, 64):
        x, truth = tokens(windows, 8, 48, seed=3)
        found = accumulated(x, tmp_path / str(windows))
        plain = torch.einsum("wti,wtj->ij", x.double(), x.double()).numpy() / (windows * 8)
        shares.append(found.shrinkage("a.weight"))
        gains.append(np.square(found.of("a.weight") - truth).sum() / np.square(plain - truth).sum())
    assert shares[0] > shares[1] > shares[2] > 0
    assert all(gain < 1 for gain in gains)


def test_inputs_without_correlation_have_nothing_to_shrink():
    assert shrinkage(torch.eye(3), 0.0, 5) == 0.0
