"""Thresholds by definition, rounding to levels, and steps that follow the token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mediant import discovery
from mediant.methods.activations import dynamic_step, largest_level, rounded
from mediant.methods.activations.percentile import Percentile

SAMPLE = np.abs(np.random.default_rng(0).standard_normal(20000)).astype(np.float32)


@pytest.mark.parametrize("name", discovery.names("activations"))
@pytest.mark.parametrize("bits", [4, 8])
def test_a_threshold_is_among_the_magnitudes_and_scales_with_them(name, bits):
    method = discovery.make("activations", {"name": name})
    (found,) = method.thresholds(SAMPLE[None], bits)
    assert 0 < found <= SAMPLE.max() * (1 + 1e-6)
    # A power of two moves no rounding.
    assert method.thresholds(SAMPLE[None] * 8, bits) == pytest.approx(8 * found, rel=1e-6)
    assert method.thresholds(np.zeros((1, 100), np.float32), bits) == 0


@pytest.mark.parametrize("name", discovery.names("activations"))
def test_groups_are_looked_at_one_by_one(name):
    method = discovery.make("activations", {"name": name})
    groups = SAMPLE.reshape(5, -1) * np.float32([1, 3, 0, 0.1, 9])[:, None]
    np.testing.assert_array_equal(
        method.thresholds(groups, 8), np.concatenate([method.thresholds(group[None], 8) for group in groups])
    )


def test_outliers_are_clipped_by_all_but_min_max():
    spoilt = np.append(SAMPLE, np.float32(30))
    methods = {name: discovery.make("activations", {"name": name}) for name in ("min_max", "kl")}
    found = {name: float(method.thresholds(spoilt[None], 8)[0]) for name, method in methods.items()}
    assert found["min_max"] == 30
    assert found["kl"] < 10
    assert Percentile(99.9).thresholds(spoilt[None], 8) < 10
    with pytest.raises(ValueError, match="above 0"):
        Percentile(0)


def test_rounding_goes_to_the_nearest_level_in_reach():
    levels = np.arange(-127, 128) * 0.25
    x = torch.linspace(-40, 40, 997, dtype=torch.float64)
    nearest = levels[np.abs(x.numpy()[:, None] - levels).argmin(1)]
    error = np.abs(rounded(x, 0.25, 8).numpy() - x.numpy())
    np.testing.assert_allclose(error, np.abs(nearest - x.numpy()), atol=1e-12)
    assert rounded(x, 0.0, 8).abs().max() == 0


def test_a_dynamic_step_clips_nothing_and_follows_every_token():
    x = (
        torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 100, 1e-3])[:, None, None]
    )
    step = dynamic_step(x, 8)
    assert step.shape == (3, 5, 1)
    assert ((rounded(x, step, 8) - x).abs() <= step / 2 * (1 + 1e-5)).all()
    assert float(rounded(torch.zeros(2, 4), dynamic_step(torch.zeros(2, 4), 8), 8).abs().max()) == 0
    assert largest_level(4) == 7
