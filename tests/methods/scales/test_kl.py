"""The KL threshold, against the published pseudocode written out bin by bin."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mediant.methods.scales.kl import Kl, best_threshold, histogram

INT8 = np.arange(-128.0, 128)


def divergence(counts, kept, magnitudes):
    """Migacz's pseudocode for one threshold: P, Q and their KL, as lists of bins."""
    outside = sum(counts[kept:])
    p = [*counts[: kept - 1], counts[kept - 1] + outside]
    cells = [min(range(len(magnitudes)), key=lambda k: abs((j + 0.5) / kept - magnitudes[k])) for j in range(kept)]
    q = []
    for j in range(kept):
        mates = [i for i in range(kept) if cells[i] == cells[j] and counts[i] > 0]
        q.append(sum(counts[i] for i in mates) / len(mates) if counts[j] > 0 else 0)
    result = 0.0
    for a, b in zip(p, q, strict=True):
        if a > 0:
            result += a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) if b > 0 else math.inf
    return result


@pytest.mark.parametrize("levels", [4, 5, 8])
@pytest.mark.parametrize("bins", [16, 37])
def test_the_threshold_of_the_pseudocode(levels, bins):
    generator = np.random.default_rng(bins * levels)
    counts = np.floor(generator.exponential(2, (25, bins)) * np.linspace(3, 0.3, bins))
    counts[:, -1] = np.maximum(counts[:, -1], 1)
    # Irrational magnitudes, so that no bin's centre lies between two levels.
    magnitudes = np.arange(levels) ** 1.1 / (levels - 1) ** 1.1
    shares = best_threshold(counts, magnitudes)
    for row, share in zip(counts.tolist(), shares, strict=True):
        all_kl = {kept: divergence(row, kept, magnitudes.tolist()) for kept in range(levels, bins + 1)}
        # Sums of `bins` terms, each of at most log(total) nats: 2^-40 is far above their rounding.
        assert all_kl[round(share * bins)] <= min(all_kl.values()) + 2.0**-40


def test_the_comparison_fails_on_another_threshold():
    counts = [9.0, 7, 8, 3, 4, 1, 0, 1, 0, 0, 0, 1]
    magnitudes = np.arange(4) / 3
    best = round(float(best_threshold(np.array([counts]), magnitudes)[0]) * 12)
    others = [divergence(counts, kept, magnitudes.tolist()) for kept in range(4, 13) if kept != best]
    assert min(others) > divergence(counts, best, magnitudes.tolist()) + 2.0**-40


def test_histograms_count_sensitivities():
    w, h = np.float32([[0, 1, -2, 4, -4]]), np.float32([[1, 2, 4, 8, 16]])
    assert histogram(w, h, np.array([4.0]), 4).tolist() == [[1, 2, 4, 24]]


def test_rare_outliers_are_clipped():
    bulk = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    w = np.concatenate((bulk, np.float32([50, -60])))[None]
    threshold = Kl().fit(w, None, INT8, False).scale[0] * 127
    assert 3 < threshold < 10


def test_a_full_range_is_kept():
    w = np.linspace(-1, 1, 200_001, dtype=np.float32)[None]
    assert Kl().fit(w, None, INT8, False).scale[0] == np.float32(1 / 127)


def test_a_zero_point_is_refused():
    with pytest.raises(ValueError, match="without zero point"):
        Kl().fit(np.ones((1, 4), np.float32), None, np.arange(4.0), True)


def test_a_histogram_needs_bins():
    with pytest.raises(ValueError, match="at least 2 bins, not 1"):
        Kl(bins=1)
