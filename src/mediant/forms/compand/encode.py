"""CVXQ's form of a matrix: groups of one column of one cluster of rows, each with a bit width, a scale and a centre.

Bit widths follow from the group's demand (demands.py); codes, scales and centres are those of compander.py.

Source: Young 2024 (arXiv 2409.02026), sections 3.1 to 3.3. Deviations: those of the compander and of the allocation;
(1) every overhead is stored and counted: 4 bits of bit width, 16 of scale and 16 of centre a group, and the cluster of
every row.

Cost: that of the compander.
"""

from __future__ import annotations

import numpy as np

from mediant.errors import PlanError
from mediant.forms.compand import demands
from mediant.forms.compand.companded_matrix import CompandedMatrix, levels
from mediant.forms.compand.compander import compand
from mediant.forms.compand.demands import Bytes, Demand
from mediant.forms.compand.form import Compand
from mediant.forms.compand.measure import HINTS
from mediant.forms.encoding import Encoded
from mediant.methods.layer import Layer
from mediant.values import Certificate, TensorInfo

__all__ = ["HINTS", "encode"]


def encode(layer: Layer, plan: Compand, info: TensorInfo, hint: Demand | None = None) -> Encoded:
    """Returns a layer's matrix as it is stored, and what is known about its error; `hint` is its demand.

    Raises:
        PlanError: the demand was not measured.
    """
    if hint is None:
        raise PlanError(f"The tensor {info.name!r} is to be companded, but its demand was not measured.")
    return at_bit_widths(layer, hint.clusters, demands.bit_widths(hint, plan.multiplier))


def at_bit_widths(layer: Layer, clusters: Bytes, bit_widths: Bytes) -> Encoded:
    """Returns a layer's matrix with these bit widths [clusters, columns]; `clusters` [rows] has the cluster of every
    row.
    """
    found = compand(layer.matrix, clusters, bit_widths)
    matrix = found.matrix()
    gaps = [float(np.diff(levels(int(bits))).max()) / 2 for bits in np.unique(bit_widths) if bits]
    inner = Certificate(0.0, 0.0, max(gaps, default=0.0), _outside(found))
    return Encoded(found.parts(), matrix, layer.certified(inner, matrix))


def _outside(found: CompandedMatrix) -> float:
    """Returns the share of the weights in outermost cells, which have no end."""
    ends = (1 << found.bit_widths.astype(np.int64)) - 1
    outermost = (found.codes == 0) | (found.codes == ends[found.clusters])
    return float(outermost[found.bit_widths[found.clusters] > 0].sum()) / found.codes.size
