"""Nearest rounding: no other code is nearer, for every kind of grid."""

from __future__ import annotations

import numpy as np
import pytest

from mediant import discovery
from mediant.methods.rounding.nearest import Nearest


@pytest.mark.parametrize(
    ("grid", "bits"),
    [
        ({"name": "uniform"}, 4),
        ({"name": "uniform", "kind": "zero_point"}, 3),
        ({"name": "log2"}, 5),
        ({"name": "farey"}, 4),
    ],
)
def test_no_code_is_nearer(grid, bits):
    made = discovery.make("grids", grid)
    levels = made.levels(bits)
    generator = np.random.default_rng(0)
    w = generator.standard_normal((30, 17)).astype(np.float32)
    scale = generator.choice(np.float32([-0.7, -0.1, 0.25, 1.3]), 30)
    zero = generator.integers(0, 2**bits, 30).astype(np.float32) * made.zero_point
    distances = np.abs(w[..., None] - scale[:, None, None].astype(np.float64) * (levels - zero[:, None])[:, None])
    codes = Nearest().codes(w, scale, zero, levels)
    assert codes.dtype == np.uint8
    chosen = np.take_along_axis(distances, codes[..., None].astype(int), 2)[..., 0]
    # Distances to both sides of a middle are computed to within a rounding of w and of s l.
    assert (chosen <= distances.min(2) + 2.0**-50 * (np.abs(w) + np.abs(scale[:, None]) * np.ptp(levels))).all()
    assert not (distances.max(2) <= distances.min(2) + 2.0**-50).any()


def test_its_spec_comes_back():
    assert discovery.make("rounding", discovery.spec(Nearest())) == Nearest()
