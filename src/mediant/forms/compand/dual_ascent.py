"""Bit widths by dual ascent, as CVXQ allocates: the group whose error matters most gets the most bits.

Minimises Σ_n P_n d_n 2^(-2 B_n) subject to Σ P_n B_n = R Σ P_n over bit widths 0 ≤ B_n ≤ 8, where group n has P_n
weights, and d_n = G_n² S_n² is its demand: the mean squared gradient of the output by its weights times their variance.
For a multiplier V,

    B_n = clamp(1/2 log2(2 ln 2 d_n / V), 0, 8),

and log2 V += 2 (mean of B - R) until the mean is R: a Newton step, since the mean falls by 1/2 with every octave of V.
Rounded, B_n + 1 replaces B_n where d_n passes a bound that grows by 4 with every bit: as a Lagrange multiplier would
choose, so no other whole bit widths with as few bits have less distortion.

Args: log2 demands, and sizes P, [groups]; R in bits per weight.

Source: Young 2024 (arXiv 2409.02026), section 3.2. Deviation: (1) for whole bit widths V is found by bisection, since
the mean of rounded bit widths moves in steps.

Cost: a few dozen passes over the groups.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

MOST_BITS = 8
# Where most groups are at a bound, a step of Newton with the slope of free groups only goes part of the way.
STEPS = 2048
CLOSE = 1e-9
BISECTIONS = 60
# A group that nothing depends on, or whose weights are all the same.
NO_DEMAND = -300.0


def log2_demand(squares: NDArray[np.floating], variances: NDArray[np.floating]) -> Doubles:
    """log2 of G² S², `NO_DEMAND` where it is 0."""
    product = squares.astype(np.float64) * variances
    logarithm: Doubles = np.full(product.shape, NO_DEMAND)
    np.log2(product, out=logarithm, where=product > 2.0**NO_DEMAND)
    return logarithm


def bits(demand: Doubles, log2_v: float) -> Doubles:
    """B for every group, not rounded."""
    wanted: Doubles = np.clip(0.5 * (math.log2(2 * math.log(2)) + demand - log2_v), 0, MOST_BITS)
    return wanted


def whole(demand: Doubles, log2_v: float) -> NDArray[np.uint8]:
    """B rounded, halves up."""
    return np.floor(bits(demand, log2_v) + 0.5).astype(np.uint8)


def ascend(demand: Doubles, sizes: Doubles, rate: float) -> float:
    """log2 V at which the mean of B is `rate`, by Newton's steps."""
    log2_v = float(np.average(demand, weights=sizes)) - 2 * rate
    for _ in range(STEPS):
        excess = float(np.average(bits(demand, log2_v), weights=sizes)) - rate
        if abs(excess) < CLOSE:
            break
        log2_v += 2 * excess
    return log2_v


def within(demand: Doubles, sizes: Doubles, rate: float) -> float:
    """Returns the least log2 V, to a millionth of an octave or so, at which the mean of whole bit widths is at most
    `rate`.
    """
    low, high = float(demand.min()) - 2 * MOST_BITS - 2, float(demand.max()) + 4
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if float(np.average(whole(demand, middle), weights=sizes)) <= rate:
            high = middle
        else:
            low = middle
    return high
