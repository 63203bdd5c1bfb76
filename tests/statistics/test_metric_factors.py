"""The factors of a metric against the inverse it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mediant.statistics.metric_factors import SOLVED, damped, factorize, inverse_of_upper


@pytest.mark.parametrize("side", [1, 2, SOLVED, SOLVED + 1, 3 * SOLVED - 1])
def test_the_inverse_by_halves_is_the_inverse(side):
    generator = torch.Generator().manual_seed(side)
    matrix = torch.randn(side, side, generator=generator, dtype=torch.float64).triu() / side + torch.eye(side)
    inverse = inverse_of_upper(matrix)
    assert torch.equal(inverse, inverse.triu())
    torch.testing.assert_close(matrix @ inverse, torch.eye(side, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(inverse @ matrix, torch.eye(side, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", [5, 2 * SOLVED + 3])
def test_feedback_and_conditional_are_factors_of_the_inverse_metric(side):
    x = np.random.default_rng(side).standard_normal((2 * side, side))
    metric = damped(x.T @ x / side, 0.01)
    found = factorize(metric)
    upper = found.feedback.astype(np.float64) / np.sqrt(found.conditional.astype(np.float64))[:, None]
    np.testing.assert_allclose(upper.T @ upper @ metric, np.eye(side), atol=2e-5)


def test_a_metric_that_is_not_positive_definite_is_refused():
    with pytest.raises(ValueError, match="not positive definite"):
        factorize(-np.eye(3))
