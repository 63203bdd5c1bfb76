"""A scale, and zero, that let a few weights have large errors so that the rest have small ones.

Minimises Σ h |w - w^|^p with p < 1 by half-quadratic splitting: an auxiliary e takes over the large errors, by
generalised soft thresholding, and least squares fit what is left. For p < 1 outliers cost little, so the scale follows
the bulk of the weights. It needs no calibration, and that is its place: where squared error is the measure, `exact`
is better, by definition and in less time.

With r = w - w^, all in units of the group's step, one iteration is

    e = sign(r) max(0, |r| - |r|^(p-1) / β)
    z = Σ h (q - (w - e)/s) / Σ h                            where the grid has a zero point
    s = Σ h (w - e)(q - z) / Σ h (q - z)^2
    β = κ β.

Args of `fit`: float32 groups and sensitivities [groups, size], in the unit of the weights; so is s.

Source: Badri and Shaji 2023, with the updates and defaults of `optimize_weights_proximal` in its published code.
Deviations: (1) the scale is fitted too, and alone where the grid has no zero point; (2) the zero is an integer in the
end, as our format stores it, and stays real between iterations; (3) the thresholds are in units of the step, so that
scaled weights get a scaled result; (4) keeps the best iterate of each group by Σ h |w - w^|^p, `absmax` being the
first, instead of ending when the mean error of a matrix rises; (5) sensitivities h.

Cost: `iterations` passes over the weights, each with two powers.

>>> w = np.float32([[1, 1, -1, 1, -1, 1.9]])
>>> [f"{method.fit(w, None, np.arange(-1.0, 2), False).scale[0]:.2f}" for method in (Absmax(), HalfQuadratic())]
['1.90', '1.02']
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.kernels.nearest_code import nearest_code
from mediant.methods.scales import Fit
from mediant.methods.scales.absmax import Absmax, to_float32

REFERENCES = (
    "Badri and Shaji 2023, Half-Quadratic Quantization of Large Machine Learning Models, https://mobiusml.github.io/hqq_blog",
)
NEEDS: tuple[str, ...] = ()

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# Weights per pass: bounds the memory of the float64 copies.
CHUNK = 1 << 20


@dataclass(frozen=True)
class HalfQuadratic:
    """The exponent p of the error, the strength β of the splitting and its growth κ, and the number of iterations."""

    lp_norm: float = 0.7
    beta: float = 10.0
    kappa: float = 1.01
    iterations: int = 20

    def __post_init__(self) -> None:
        if not (0 < self.lp_norm < 1 and self.beta > 0 and self.kappa >= 1 and self.iterations >= 0):
            raise ValueError("0 < lp_norm < 1, beta > 0, kappa >= 1 and iterations >= 0 must hold")

    def fit(self, groups: Floats, weights: Floats | None, levels: Doubles, zero_point: bool) -> Fit:
        """Scale, and zero, of each group.

        Raises:
            ValueError: the grid has no level but 0.
        """
        start = Absmax().fit(groups, weights, levels, zero_point)
        scale, zero = start.scale.copy(), start.zero.copy()
        rows = max(1, CHUNK // max(1, groups.shape[1]))
        for begin in range(0, len(groups), rows):
            part = slice(begin, begin + rows)
            h = np.ones_like(groups[part]) if weights is None else weights[part]
            scale[part], zero[part] = self._improve(groups[part], h, Fit(scale[part], zero[part]), levels, zero_point)
        return Fit(scale, zero)

    def _improve(self, w: Floats, h: Floats, start: Fit, levels: Doubles, zero_point: bool) -> Fit:
        best, fit = start, start
        unit = np.where(start.scale > 0, start.scale, 1).astype(np.float64)
        least = np.full(len(w), np.inf)
        beta = self.beta
        for iteration in range(self.iterations + 1):
            stored = Fit(fit.scale, np.clip(np.rint(fit.zero), levels[0], levels[-1])) if zero_point else fit
            error = lp_error(w, h, stored, levels, unit, self.lp_norm)
            better = error < least
            least = np.where(better, error, least)
            best = Fit(np.where(better, stored.scale, best.scale), np.where(better, stored.zero, best.zero))
            if iteration < self.iterations:
                fit = step(w, h, fit, levels, zero_point, self.lp_norm, beta)
                beta *= self.kappa
        return best


METHOD = HalfQuadratic


def lp_error(w: Floats, h: Floats, fit: Fit, levels: Doubles, unit: Doubles, p: float) -> Doubles:
    """Σ h |w - w^|^p of each group, with errors in its `unit`."""
    scale, zero = (part.astype(np.float64)[:, None] for part in fit)
    decoded = scale * (levels[nearest_code(w, *fit, levels)] - zero)
    error: Doubles = (h * (np.abs(w - decoded) / unit[:, None]) ** p).sum(1)
    return error


def step(w: Floats, h: Floats, fit: Fit, levels: Doubles, zero_point: bool, p: float, beta: float) -> Fit:
    """Returns one iteration; a group whose scale is or becomes 0 keeps what it has."""
    scale = np.where(fit.scale != 0, fit.scale, 1).astype(np.float64)[:, None]
    zero = fit.zero.astype(np.float64)[:, None]
    q = levels[nearest_code(w, *fit, levels)]
    x = w / scale
    kept = x - shrunk(x - (q - zero), p, beta)
    if zero_point:
        zero = weighted_mean(q - kept, h)
    product, square = (h * kept * (q - zero)).sum(1), (h * (q - zero) ** 2).sum(1)
    factor = np.divide(product, square, out=np.zeros(len(w)), where=square > 0)
    moved = (fit.scale != 0) & (factor > 0)
    return Fit(
        np.where(moved, to_float32(scale[:, 0] * factor), fit.scale),
        np.where(moved, zero[:, 0], fit.zero).astype(np.float32),
    )


def shrunk(r: Doubles, p: float, beta: float) -> Doubles:
    """Generalised soft thresholding: the proximal step of |e|^p / β."""
    magnitude = np.abs(r)
    threshold = np.power(magnitude, p - 1, out=np.full(r.shape, np.inf), where=magnitude > 0) / beta
    kept: Doubles = np.copysign(np.maximum(0, magnitude - threshold), r)
    return kept


def weighted_mean(values: Doubles, h: Floats) -> Doubles:
    """Returns the mean of each row [groups, 1]; 0 where no weight counts."""
    total = h.sum(1, keepdims=True, dtype=np.float64)
    mean: Doubles = np.divide((h * values).sum(1, keepdims=True), total, out=np.zeros(total.shape), where=total > 0)
    return mean
