"""Rounding: which point of the grid is taken."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mediant.kernels.babai import MetricFactors
from mediant.kernels.scale_codes import ScaleForm
from mediant.methods.grids import Grid
from mediant.methods.layer import Layer
from mediant.methods.scales import Scale
from mediant.values import Array


class Setting(NamedTuple):
    """What a matrix is rounded to: a grid stretched by a scale for each `group` columns, and how scales are stored."""

    grid: Grid
    scale: Scale
    group: int
    form: ScaleForm


class RoundedRows(NamedTuple):
    """Some rows: scales as stored (kernels/scale_codes.py), scales and zeros as decoded, codes [rows, columns].

    Scales and zeros are float32 [rows, groups], codes uint8. Where errors were carried on, `entropy_coded` is the one
    they went by, and `outside` counts the weights that were outside the grid when their turn came.
    """

    stored: dict[str, Array]
    scale: NDArray[np.float32]
    zero: NDArray[np.float32]
    codes: NDArray[np.uint8]
    factored: MetricFactors | None = None
    outside: int | None = None


class Rounding(Protocol):
    """What a file in this folder offers as `METHOD`: a frozen dataclass with this member.

    One that can also take the points of a grid of pairs says so with an attribute `takes_pairs`.
    """

    def round(self, layer: Layer, levels: NDArray[np.float64], setting: Setting) -> RoundedRows:
        """Returns codes and scales of the rows of a layer; ties go to the lower level.

        Args:
            layer: the rows, with their metric and its factors.
            levels: ascending levels [count], or points [2, count].
            setting: the grid, the scale, the group and how scales are stored.

        Raises:
            PlanError: this rounding does not go with such a grid, scale or width of scales.
        """
