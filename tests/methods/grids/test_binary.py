"""Signs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mediant.methods.grids.binary import Binary
from mediant.methods.scales.exact import Exact


def test_the_optimal_scale_is_the_mean_magnitude():
    w = np.random.default_rng(0).integers(-1000, 1000, (20, 64)).astype(np.float32)
    w[w == 0] = 1
    fit = Exact().fit(w, None, Binary().levels(1), False)
    np.testing.assert_array_equal(fit.scale, np.abs(w).mean(1))


def test_the_share_of_gaussian_energy_is_two_over_pi():
    count = 10**6
    w = np.random.default_rng(0).standard_normal((1, count), np.float32)
    kept = Exact().fit(w, None, Binary().levels(1), False).scale[0] ** 2 / np.square(w, dtype=np.float64).mean()
    # (E|w|)^2 / E w^2 = 2/π; by the delta method its standard error is 2/π sqrt(2π - 6)/sqrt(n), here within 4 of them.
    assert abs(kept - 2 / math.pi) < 4 * 2 / math.pi * math.sqrt((2 * math.pi - 6) / count)


def test_more_bits_are_refused():
    with pytest.raises(ValueError, match="1 bit, not 2"):
        Binary().levels(2)
