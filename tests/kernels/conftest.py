"""Matrices with correlated inputs, and what codes for them cost in their metric."""

from __future__ import annotations

import numpy as np
import pytest

from mediant.statistics.metric_factors import damped


@pytest.fixture(scope="session")
def problem():
    """A matrix [rows, columns] and a metric whose eigenvalues spread widely."""

    def make(rows, columns, seed=0, spread=1.0):
        generator = np.random.default_rng(seed)
        factor = generator.normal(size=(columns, 2 * columns)) * np.exp(spread * generator.normal(size=(columns, 1)))
        mixing = generator.normal(size=(columns, columns)) / np.sqrt(columns)
        inputs = (np.eye(columns) + mixing) @ factor
        metric = damped(inputs @ inputs.T / (2 * columns), 0.01)
        return generator.normal(size=(rows, columns)).astype(np.float32), metric

    return make


@pytest.fixture(scope="session")
def decoded():
    """The weights that codes and scales stand for."""

    def weights(result, levels, group, form):
        scales = np.repeat(result.scales(form), group, axis=1)[:, : result.codes.shape[1]]
        return scales * levels[result.codes]

    return weights


@pytest.fixture(scope="session")
def error(decoded):
    """(w^ - w) M (w^ - w)^T of every row."""

    def of_rows(w, result, metric, levels, group, form):
        difference = decoded(result, levels, group, form).astype(np.float64) - w
        return np.einsum("ij,jk,ik->i", difference, metric, difference)

    return of_rows
