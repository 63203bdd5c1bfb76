"""Rounding a layer's rows against its Hessian in pairs: Babai's nearest plane, two columns and one of 16 points a step.

As `babai`, which has the notation, but columns 2k and 2k + 1 take the point (a_p, b_p) of a codebook that is best for
both, with all columns before them as they are:

    e_1 = w_1 - s a_p,   e_2 = w_2 - e_1 V_12 - s b_p,   cost d_1 e_1^2 + d_2 e_2^2,

the exact minimum over the points. Columns behind the last pair are singles: each takes one of the first four a_p. Row
scales and group scales are found as in `babai`, with the same costs but without V.

All arithmetic is float32; costs of a group are added in eight lanes, pair by pair and then single by single, in the
order of `babai`; of equal costs the first point counts. So native, reference, and any number of threads give the same
bits. Cost per row: n^2 / 2 multiply-adds, and 16 points for each pair at 20 scales and once more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import native, threads
from mediant.kernels.babai import (
    HEADROOM,
    TRIALS,
    Floats,
    MetricFactors,
    Rounded,
    empty,
    groups,
    in_lanes,
    scale_factors,
)
from mediant.kernels.bfloat16 import from_float32, to_float32
from mediant.kernels.pairs import PAIRS, SINGLES
from mediant.kernels.scale_codes import FULL, ScaleForm


def pair_babai(
    matrix: Floats, factored: MetricFactors, points: Floats, group: int, form: ScaleForm, paired: int
) -> Rounded:
    """Rounds all rows of a matrix [rows, columns] whose pairs are neighbours; codes are as kernels/pairs.py has them.

    Args:
        matrix: float32, finite.
        factored: of `columns` dimensions.
        points: float32 [2, 16].
        group: neighbouring columns that share a scale, even; the last group may be shorter.
        form: how scales are stored.
        paired: columns that are pairs, the first of all; even.

    Raises:
        ValueError: the shapes do not fit, or `form` has 16 bits.
    """
    rows, columns = matrix.shape
    if factored.metric.shape != (columns, columns):
        raise ValueError(f"{columns} columns need a metric of as many, not one of {factored.metric.shape}")
    if form.bits == FULL:
        raise ValueError("scales are found among the codes of 2 to 8 bits, not as numbers of 16")
    check_pairs(points, columns, group, paired)
    w, found, factors = np.ascontiguousarray(matrix, np.float32), empty((rows, columns), group), scale_factors(form)
    book = np.ascontiguousarray(points, np.float32)
    if native is None:
        pair_babai_reference(w, factored, book, group, factors, paired, found)
    else:
        native.pair_babai(
            w, factored.feedback, factored.conditional, book, group, factors, paired, found.codes, found.row_scales,
            found.scale_codes, threads(),
        )  # fmt: skip
    return found


def check_pairs(points: Floats, columns: int, group: int, paired: int) -> None:
    """Refuses what is not a codebook, or pairs that a group would part.

    Raises:
        ValueError: one sentence.
    """
    if points.shape != (2, PAIRS):
        raise ValueError(f"a codebook of pairs has the shape (2, {PAIRS}), not {points.shape}")
    if group < 1 or group % 2 or paired % 2 or not 0 <= paired <= columns:
        raise ValueError(f"{paired} of {columns} columns in groups of {group} are not pairs")


def pair_babai_reference(
    matrix: Floats, factored: MetricFactors, points: Floats, group: int, factors: Floats, paired: int, found: Rounded
) -> None:
    """`pair_babai` in NumPy, for checked arguments: vectorised over rows."""
    w, d, rows = matrix.copy(), factored.conditional, np.arange(len(matrix))
    found.row_scales[:] = _row_scales(w, d, points, group, paired)
    for g, here in enumerate(groups(w.shape[1], group)):
        errors = [_group_error(w, d, found.row_scales * f, points, here, paired) for f in factors]
        code = np.argmin(errors, axis=0)
        found.scale_codes[:, g], scale = code, found.row_scales * factors[code]
        a, b = scale[:, None] * points[0], scale[:, None] * points[1]
        for j in range(here.start, min(here.stop, paired), 2):
            first = w[:, j, None] - a
            second = (w[:, j + 1, None] - first * factored.feedback[j, j + 1]) - b
            p = np.argmin(d[j] * (first * first) + d[j + 1] * (second * second), axis=1)
            found.codes[:, j], found.codes[:, j + 1] = p, PAIRS + p
            w[:, j + 1 :] -= first[rows, p][:, None] * factored.feedback[j, j + 1 :]
            w[:, j + 2 :] -= (w[:, j + 1] - b[rows, p])[:, None] * factored.feedback[j + 1, j + 2 :]
        for j in range(max(here.start, paired), here.stop):
            error = w[:, j, None] - a[:, :SINGLES]
            p = np.argmin(error * error, axis=1)
            found.codes[:, j] = p
            w[:, j + 1 :] -= error[rows, p][:, None] * factored.feedback[j, j + 1 :]


def _row_scales(w: Floats, d: Floats, points: Floats, group: int, paired: int) -> Floats:
    top, best = np.abs(points).max(), np.zeros(len(w), np.float32)
    for here in groups(w.shape[1], group):
        unit = np.abs(w[:, here]).max(axis=1) / top
        errors = [_group_error(w, d, unit * t, points, here, paired) for t in TRIALS]
        best = np.maximum(best, unit * TRIALS[np.argmin(errors, axis=0)])
    return to_float32(from_float32(best * HEADROOM * np.float32(1 + 2**-8)))


def _group_error(w: Floats, d: Floats, scale: Floats, points: Floats, here: slice, paired: int) -> NDArray[np.float32]:
    """Returns the costs of a group at each row's scale, [rows]."""
    middle = max(here.start, min(here.stop, paired))
    a, b = (scale[:, None, None] * of[None, None] for of in points)
    first, second = w[:, here.start : middle : 2, None] - a, w[:, here.start + 1 : middle : 2, None] - b
    d1, d2 = d[here.start : middle : 2, None], d[here.start + 1 : middle : 2, None]
    pairs = (d1 * (first * first) + d2 * (second * second)).min(axis=2)
    single = w[:, middle : here.stop, None] - a[:, :, :SINGLES]
    singles = (d[middle : here.stop, None] * (single * single)).min(axis=2)
    return in_lanes(np.concatenate([pairs, singles], axis=1))
