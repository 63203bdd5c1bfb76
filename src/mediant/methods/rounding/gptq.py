"""GPTQ as published: columns are rounded in order, and each one's error is carried on into those that follow.

Minimises (w^ - w) M (w^ - w)^T for every row, M the damped Hessian of the layer's inputs, greedily: after column j is
rounded with error e_j, w_k -= e_j V_jk for k > j (mediant.kernels.babai has V). Scales are fitted when a group's first
column is reached, on the group as errors have left it, by the plan's scale: absmax in the paper. Here for comparison:
`babai` chooses each scale among all that can be stored, in the metric of the errors, and goes on with descent.

Source: Frantar et al. 2022 (arXiv 2210.17323), section 3.3 and algorithm 1; groups as in its section 4. Deviations:
(1) `order` "largest_first" (the authors' later act_order) takes the columns by falling diagonal of M; scales are then
fitted beforehand to the groups of the matrix itself, so that groups stay neighbours and no order has to be stored;
(2) a group is one block of lazy updates, where the paper's blocks are 128 wide whatever the group.

Cost: columns^3 once, then columns^2 / 2 multiply-adds a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from mediant.errors import PlanError
from mediant.kernels.babai import MetricFactors
from mediant.kernels.nearest_code import nearest_code
from mediant.kernels.scale_codes import FULL, decode_scales, encode_scales
from mediant.methods.layer import Layer
from mediant.methods.rounding import RoundedRows, Setting
from mediant.methods.scales import Fit
from mediant.statistics.metric_factors import factorize

REFERENCES = (
    "Frantar et al. 2022, GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, "
    "arXiv:2210.17323",
)
NEEDS = ("hessian",)

Floats = NDArray[np.float32]
Order = Literal["natural", "largest_first"]
FitScales = Callable[[Floats, Floats], Fit]
Codes = NDArray[np.uint8]


class Found(NamedTuple):
    """Codes [rows, columns], scales and zeros [rows, groups], the factors they were found with, and how many weights
    were outside the grid when their turn came.
    """

    codes: Codes
    scale: Floats
    zero: Floats
    factored: MetricFactors
    outside: int


@dataclass(frozen=True)
class Gptq:
    """`damping` as a share of the mean diagonal; `order` of the columns."""

    damping: float = 0.01
    order: Order = "natural"

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            raise ValueError(f"the order {self.order!r} is not one of {', '.join(get_args(Order))}")

    def round(self, layer: Layer, levels: NDArray[np.float64], setting: Setting) -> RoundedRows:
        """Returns codes and scales of a layer's rows.

        Raises:
            PlanError: scales have fewer than 16 bits.
        """
        form, zero_point = setting.form, setting.grid.zero_point
        if form.bits != FULL:
            raise PlanError("GPTQ rounding goes with scales of 16 bits, since a row's largest is not known beforehand.")

        def scales(group: Floats, metric: Floats) -> Fit:
            fitted = setting.scale.fit(group, np.broadcast_to(metric, group.shape), levels, zero_point)
            return fitted._replace(scale=decode_scales(encode_scales(fitted.scale[:, None], form), form)[:, 0])

        found = self.on_factors(layer.matrix, layer.factored(self.damping), levels, setting.group, scales)
        return RoundedRows(dict(encode_scales(found.scale, form)), *found[1:3], found.codes, *found[3:])

    def on_factors(
        self, matrix: Floats, factored: MetricFactors, levels: NDArray[np.float64], group: int, scales: FitScales
    ) -> Found:
        """Returns codes and scales of a matrix [rows, columns].

        Args:
            matrix: float32.
            factored: of its metric.
            levels: in units of the scale.
            group: neighbouring columns that share a scale.
            scales: fits one scale and zero to each row of a group [rows, size], given the metric of its columns [size].
        """
        columns = matrix.shape[1]
        groups = [slice(a, min(a + group, columns)) for a in range(0, columns, group)]
        if self.order == "natural":
            return _in_order(matrix, factored, levels, groups, scales)
        fits = [scales(matrix[:, here], np.ones(here.stop - here.start, np.float32)) for here in groups]
        scale, zero = (np.stack([fit[part] for fit in fits], axis=1) for part in (0, 1))
        order = np.argsort(-np.diag(factored.metric), kind="stable")
        turned = replace(factorize(factored.metric[np.ix_(order, order)].astype(np.float64)), order=order)
        of_column = order // group
        permuted = _permuted(matrix[:, order], turned, levels, scale[:, of_column], zero[:, of_column])
        codes = np.empty(matrix.shape, np.uint8)
        codes[:, order] = permuted[0]
        return Found(codes, scale, zero, turned, permuted[1])


METHOD = Gptq


def _in_order(
    matrix: Floats, factored: MetricFactors, levels: NDArray[np.float64], groups: list[slice], scales: FitScales
) -> Found:
    w = matrix.copy()
    codes = np.empty(w.shape, np.uint8)
    fits, outside = [], 0
    for here in groups:
        fits.append(scales(np.ascontiguousarray(w[:, here]), factored.conditional[here]))
        scale, zero = (np.broadcast_to(part[:, None], w[:, here].shape) for part in fits[-1])
        codes[:, here], beyond = _block(w, here, factored.feedback, levels, scale, zero)
        outside += beyond
    scale, zero = (np.stack([fit[part] for fit in fits], axis=1) for part in (0, 1))
    return Found(codes, scale, zero, factored, outside)


def _permuted(
    w: Floats, factored: MetricFactors, levels: NDArray[np.float64], scale: Floats, zero: Floats
) -> tuple[Codes, int]:
    """Returns codes [rows, columns] with a scale and a zero for every weight, and how many were outside."""
    width, w = 64, w.copy()
    blocks = [slice(a, min(a + width, w.shape[1])) for a in range(0, w.shape[1], width)]
    found = [_block(w, here, factored.feedback, levels, scale[:, here], zero[:, here]) for here in blocks]
    return np.concatenate([codes for codes, _ in found], axis=1), sum(outside for _, outside in found)


def _block(
    w: Floats, here: slice, feedback: Floats, levels: NDArray[np.float64], scale: Floats, zero: Floats
) -> tuple[Codes, int]:
    """Returns codes of some neighbouring columns of w [rows, columns], and how many weights were outside the grid.

    Their errors are carried on into all later columns.
    """
    size, table = here.stop - here.start, levels.astype(np.float32)
    # A column's weights lie side by side while the block is worked on.
    block, v = np.ascontiguousarray(w[:, here].T), feedback[here, here]
    codes, errors, outside = np.empty(block.shape, np.uint8), np.empty_like(block), 0
    for j in range(size):
        s, z = np.ascontiguousarray(scale[:, j]), np.ascontiguousarray(zero[:, j])
        codes[j] = nearest_code(block[j][:, None], s, z, levels)[:, 0]
        errors[j] = block[j] - s * (table[codes[j]] - z)
        outside += _outside(block[j], s, z, table)
        block[j + 1 :] -= v[j, j + 1 :, None] * errors[j]
    if here.stop < w.shape[1]:
        carried = torch.from_numpy(errors).T @ torch.from_numpy(np.ascontiguousarray(feedback[here, here.stop :]))
        w[:, here.stop :] -= carried.numpy()
    return np.ascontiguousarray(codes.T), outside


def _outside(weights: Floats, scale: Floats, zero: Floats, table: Floats) -> int:
    """Counts weights more than half a step beyond the grid's ends."""
    position = np.divide(weights, scale, out=np.zeros_like(weights), where=scale != 0) + zero
    return int(((position < table[0] - 0.5) | (position > table[-1] + 0.5)).sum())
