"""The scale of least squared error for each group of weights, over all scales and all choices of levels.

For a group w with sensitivities h and a table of levels l, minimise over s, and over one level l_i for each weight,

    E = Σ h_i (w_i - s l_i)^2.

For fixed levels s = A/B with A = Σ h w l and B = Σ h l^2, and then E = Σ h w^2 - A^2/B. At the optimum every weight
has its nearest level, so one needs to look only at the states that nearest rounding of t w passes through as t = 1/s
grows from 0. Let q_0 < q_1 < ... be the levels on a weight's side of 0, from the one nearest 0 outwards, times the
sign of that side. The weight steps from q_k to q_{k+1} at the breakpoint

    t = (q_k + q_{k+1}) / 2 / |w|,   and there   A += h |w| (q_{k+1} - q_k),   B += h (q_{k+1}^2 - q_k^2).

Both only grow, so running sums lose nothing to cancellation. Sweep the sorted breakpoints and keep the state with the
largest A^2/B; of equal ones the first, that is the largest scale. A table that is not its own mirror image is swept
a second time for negative s; a table with a zero point once for each zero z, with the levels l - z.

No breakpoint lies at the optimum: if it did, both neighbouring states would have the same error at that s, and A/B
would have to be s for both, which 2 dA = s dB forbids.

Sums are float64, in an order that depends on the values of a group alone: not on the order of its weights, nor on
the number of threads, nor on whether the native twin runs.

Cost: for n weights and K levels, n K breakpoints a sweep, sorted. The native twin makes them block by block and
stops once the clipping error Σ h (|w| - s q_max)^2 of the weights beyond the grid exceeds the best error so far.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import native, threads

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# Below this many weights a thread costs more than it saves.
_WEIGHTS_PER_THREAD = 1 << 14
# Breakpoints that the reference holds at a time.
_BREAKPOINTS = 1 << 21


def exact_scale(groups: Floats, weights: Floats | None, levels: Doubles, zero_point: bool) -> tuple[Floats, Floats]:
    """Returns the optimal scale, and zero, of each group.

    Args:
        groups: float32 [groups, size], finite.
        weights: float32 [groups, size], finite and >= 0, or None for all 1. Entries with h = 0 do not count.
        levels: float64 [levels], ascending and finite.
        zero_point: whether each group has a zero z, one of the levels, that is taken off every level.

    Returns:
        Scale and zero, float32 [groups]. The scale may be negative if the levels are not symmetric and there is no
        zero point; it is 0 for a group that nothing but 0 fits, and within the range of float32.

    Raises:
        ValueError: the shapes do not fit.

    >>> exact_scale(np.float32([[2, 1, 0, -1]]), None, np.array([-2.0, -1, 0, 1]), False)[0].tolist()
    [-1.0]
    """
    if weights is not None and weights.shape != groups.shape:
        raise ValueError(f"groups of shape {groups.shape} need weights of that shape, not {weights.shape}")
    signs, zeros, outward = _candidates(levels, zero_point)
    if native is None:
        step, choice = exact_scale_reference(groups, weights, outward)
    else:
        step, choice = np.empty(len(groups)), np.empty(len(groups), np.int32)
        h = np.zeros((0, 0), np.float32) if weights is None else _floats(weights)
        count = min(threads(), 1 + groups.size // _WEIGHTS_PER_THREAD)
        native.exact_scale(_floats(groups), h, outward, step, choice, count)
    most = np.finfo(np.float32).max
    return np.clip(signs[choice] * step, -most, most).astype(np.float32), zeros[choice]


def exact_scale_reference(
    groups: Floats, weights: Floats | None, outward: Doubles
) -> tuple[Doubles, NDArray[np.int32]]:
    """Returns the sweeps in NumPy.

    Args:
        groups: float32 [groups, size].
        weights: float32 [groups, size], or None for all 1.
        outward: float64 [candidates, 2, steps + 1], the levels q of each candidate for positive and for other
            weights; a shorter walk repeats its last level.

    Returns:
        1/t = |s| of the best state, float64 [groups], and which candidate it belongs to, int32 [groups].
    """
    step, choice = np.zeros(len(groups)), np.zeros(len(groups), np.int32)
    share = max(1, _BREAKPOINTS // max(1, groups.shape[1] * (outward.shape[2] - 1)))
    for begin in range(0, len(groups) if groups.shape[1] else 0, share):
        rows = slice(begin, begin + share)
        group = _sorted(groups[rows], None if weights is None else weights[rows])
        best = np.zeros(len(group[0]))
        for c, walks in enumerate(outward):
            gain, scale = _sweep(*group, walks)
            better = gain > best
            best[better], step[rows][better], choice[rows][better] = gain[better], scale[better], c
    return step, choice


def _candidates(levels: Doubles, zero_point: bool) -> tuple[Doubles, Floats, Doubles]:
    """Sign, zero and outward levels of every sweep."""
    if zero_point:
        tables = [(1.0, zero, _outward(levels - zero)) for zero in levels]
    else:
        up, down = _outward(levels)
        tables = [(1.0, 0.0, (up, down))]
        if not np.array_equal(levels, -levels[::-1]):
            tables.append((-1.0, 0.0, (down, up)))
    longest = max(len(walk) for _, _, walks in tables for walk in walks)
    outward = [[np.pad(walk, (0, longest - len(walk)), "edge") for walk in walks] for _, _, walks in tables]
    signs, zeros = np.array([t[0] for t in tables]), np.array([t[1] for t in tables], np.float32)
    return signs, zeros, np.array(outward)


def _outward(levels: Doubles) -> tuple[Doubles, Doubles]:
    """Returns the levels of positive and of other weights, from the one nearest 0 outwards, times the side's sign."""
    middles = (levels[:-1] + levels[1:]) / 2
    return levels[np.sum(middles <= 0) :], -levels[: np.sum(middles < 0) + 1][::-1]


def _sorted(groups: Floats, weights: Floats | None) -> tuple[NDArray[np.bool_], Doubles, Doubles]:
    """Side, |w| and h of each weight: positive ones first, then by falling |w|, then by falling h."""
    h = np.ones_like(groups) if weights is None else weights
    order = np.lexsort((-h, -np.abs(groups), groups <= 0), axis=1)
    w, h = np.take_along_axis(groups, order, 1), np.take_along_axis(h, order, 1)
    return w <= 0, np.abs(w).astype(np.float64), h.astype(np.float64)


def _sweep(other: NDArray[np.bool_], magnitude: Doubles, h: Doubles, walks: Doubles) -> tuple[Doubles, Doubles]:
    """Returns the largest A^2/B of one candidate, and A/B there."""
    side = other.astype(np.intp)
    inverse = np.full(magnitude.shape, np.inf)
    np.divide(1, magnitude, out=inverse, where=(magnitude > 0) & (h > 0))
    rises, squares = np.diff(walks), np.diff(walks**2)
    middles = np.where(rises > 0, (walks[:, :-1] + walks[:, 1:]) / 2, np.inf)

    t = _by_step(middles[side] * inverse[..., None])
    order = np.argsort(t, axis=1, kind="stable")
    t = np.take_along_axis(t, order, 1)
    states = []
    for start, terms in (
        ((h * magnitude) * walks[side, 0], (h * magnitude)[..., None] * rises[side]),
        (h * walks[side, 0] ** 2, h[..., None] * squares[side]),
    ):
        passed = np.where(np.isfinite(t), np.take_along_axis(_by_step(terms), order, 1), 0)
        first = np.cumsum(start, axis=1)[:, -1:]
        states.append(np.cumsum(np.concatenate((first, passed), axis=1), axis=1))
    a, b = states

    gain = np.zeros(a.shape)
    np.divide(a * a, b, out=gain, where=a > 0)
    gain[:, 1:-1][t[:, 1:] == t[:, :-1]] = 0  # breakpoints at the same t happen together
    best = np.argmax(gain, axis=1)[:, None]
    a, b, gain = (np.take_along_axis(x, best, 1)[:, 0] for x in (a, b, gain))
    return gain, np.divide(a, b, out=np.zeros(len(a)), where=a > 0)


def _by_step(values: Doubles) -> Doubles:
    """[groups, size, steps] to [groups, steps * size], the order in which equal breakpoints are taken."""
    return np.ascontiguousarray(values.transpose(0, 2, 1)).reshape(len(values), -1)


def _floats(values: Floats) -> Floats:
    return np.ascontiguousarray(values, np.float32)
