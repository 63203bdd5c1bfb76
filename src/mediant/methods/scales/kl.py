"""The clipping threshold whose quantized histogram tells least apart from the original.

Minimises KL(P ‖ Q) over thresholds T: P is the histogram of magnitudes up to T with everything beyond put into its
last bin, Q the same histogram without what is beyond, after the bins nearest to one level have been averaged (over
those that are not empty). Then s = T / e, where e is the end of the grid's symmetric part.

Meant for activations or whole tensors, whose histograms have many entries a bin. On groups of a few dozen weights the
histogram says little, and `exact` has less squared error; the fit there is for comparison. It looks at magnitudes
only, so it neither mirrors a lopsided grid nor serves one with a zero point.

Args of `fit`: float32 groups and sensitivities [groups, size], in the unit of the weights; so is s.

Source: Migacz 2017, 8-bit Inference with TensorRT, "Entropy Calibration - pseudocode". Deviations: (1) levels may be
any table, where the source has 128 equal ones; (2) thresholds below as many bins as there are magnitudes of levels
are left out, as in the source, where these are 128; (3) no more bins than entries in a group, or than twice the
magnitudes if these are more, so that few entries are not lost among empty bins; (4) the last bin must hold something
before the outliers are added to it, without which KL is infinite; (5) bins count sensitivities h.

Cost: n to count n weights, then bins × levels, for each group.

>>> w = np.concatenate([np.linspace(-1, 1, 4001), [9]])[None].astype(np.float32)
>>> float(Kl().fit(w, None, np.arange(-128.0, 128), False).scale[0] * 127) < 1.1
True
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.methods.scales import Fit
from mediant.methods.scales.absmax import extremes, inner_end, to_float32

REFERENCES = ("Migacz 2017, 8-bit Inference with TensorRT, GPU Technology Conference S7310",)
NEEDS: tuple[str, ...] = ()

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# Bins or weights per pass: bounds the memory.
CHUNK = 1 << 22


@dataclass(frozen=True)
class Kl:
    """The largest number of `bins` of the histogram."""

    bins: int = 2048

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ValueError(f"a histogram has at least 2 bins, not {self.bins}")

    def fit(self, groups: Floats, weights: Floats | None, levels: Doubles, zero_point: bool) -> Fit:
        """Returns the scale of each group; 0 for a group of zeros.

        Raises:
            ValueError: the grid has a zero point, or no level but 0.
        """
        if zero_point:
            raise ValueError("the KL threshold is for grids without zero point")
        if not levels.any():
            raise ValueError("a scale needs a grid with a level other than 0")
        lo, hi = extremes(groups, weights)
        most = np.maximum(-lo, hi)
        end = inner_end(levels)
        magnitudes = np.unique(np.abs(levels[np.abs(levels) <= end]))
        bins = max(2, min(self.bins, max(groups.shape[1], 2 * len(magnitudes))))
        shares = np.ones(len(groups))
        rows = max(1, CHUNK // max(bins, groups.shape[1]))
        for begin in range(0, len(groups), rows):
            part = slice(begin, begin + rows)
            h = np.ones_like(groups[part]) if weights is None else weights[part]
            shares[part] = best_threshold(histogram(groups[part], h, most[part], bins), magnitudes / end)
        return Fit(to_float32(most * shares / end), np.zeros(len(groups), np.float32))


METHOD = Kl


def histogram(groups: Floats, h: Floats, most: Doubles, bins: int) -> Doubles:
    """Sums of h [groups, bins] over equal bins of |w| from 0 to the group's `most`."""
    position = np.abs(groups) / np.where(most > 0, most, 1)[:, None] * bins
    index = np.minimum(position.astype(np.intp), bins - 1) + np.arange(len(groups))[:, None] * bins
    counts = np.bincount(index.ravel(), h.ravel(), minlength=len(groups) * bins)
    return counts.astype(np.float64).reshape(len(groups), bins)


def best_threshold(counts: Doubles, magnitudes: Doubles) -> Doubles:
    """Returns the threshold of least KL as a share of the largest magnitude; of equal ones the largest.

    Args:
        counts: histograms [groups, bins].
        magnitudes: of the levels, ascending, the last one 1.
    """
    bins = counts.shape[1]
    total = counts.sum(1)
    before, filled = running(counts), running((counts > 0).astype(np.float64))
    entropy = running(xlogx(counts))
    best, least = np.ones(len(counts)), np.full(len(counts), np.inf)
    middles = (magnitudes[:-1] + magnitudes[1:]) / 2
    for kept in range(bins, min(len(magnitudes), bins) - 1, -1):
        # Bin j is nearest to the level whose cell its centre (j + 1/2) / kept lies in.
        cells = np.concatenate(([0], np.ceil(middles * kept - 0.5).astype(np.intp), [kept]))
        divergence = kl(counts[:, kept - 1], before[:, cells], filled[:, cells], entropy[:, kept - 1], total)
        better = divergence < least
        best[better], least[better] = kept / bins, divergence[better]
    return best


def kl(last: Doubles, before: Doubles, filled: Doubles, entropy: Doubles, total: Doubles) -> Doubles:
    """KL(P ‖ Q) in nats for one threshold; infinite where Q lacks a bin of P.

    Args:
        last: count of the last bin below the threshold, [groups].
        before: counts below each cell's first bin and below the threshold, [groups, cells + 1].
        filled: as `before`, of bins that are not empty.
        entropy: Σ c log c over the bins below the last, [groups].
        total: all counts, [groups].
    """
    inside = before[:, -1]
    outside = total - inside
    mass, width = np.diff(before), np.diff(filled)
    log_mean = np.log(np.divide(mass, width, out=np.ones(mass.shape), where=mass > 0))
    own = entropy + xlogx(last + outside) - total * np.log(np.where(total > 0, total, 1))
    cross = (mass * log_mean).sum(1) + outside * log_mean[:, -1] - total * np.log(np.where(inside > 0, inside, 1))
    divergence = np.divide(own - cross, total, out=np.zeros(len(total)), where=total > 0)
    return np.where((outside > 0) & (last == 0), np.inf, divergence)


def running(counts: Doubles) -> Doubles:
    """Sums of the bins before each, [groups, bins + 1]."""
    return np.concatenate((np.zeros((len(counts), 1)), np.cumsum(counts, axis=1)), axis=1)


def xlogx(x: Doubles) -> Doubles:
    """X log x, 0 at 0."""
    logarithm: Doubles = np.log(np.where(x > 0, x, 1))
    return x * logarithm
