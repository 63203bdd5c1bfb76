"""What whole parts of a model are worth: the predicted loss of setting all their weights to zero, taken one by one.

A part is some columns of the matrix that leads out of it: a neuron is a column of the down projection, a head its
columns of the output projection, a component of the hidden width its column of every matrix that reads the stream. By
`influence`, column j costs ½ h_j Σ_i g_i² w_ij² (docs/notation.md), by `wanda` h_j Σ_i w_ij², by `magnitude` Σ_i w_ij²;
`random` is what they have to beat. Sums over columns leave out what one makes up for another.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mediant.errors import PlanError
from mediant.values import Array, LayerStatistics

PartScore = Literal["influence", "wanda", "magnitude", "random"]
Doubles = NDArray[np.float64]


def column_losses(score: str, matrix: Array, statistics: LayerStatistics | None, seed: int = 0) -> Doubles:
    """Scores each column of a matrix [rows, columns]: the loss of removing it.

    Raises:
        PlanError: there is no such score.

    >>> column_losses("magnitude", np.array([[1.0, 2.0], [3.0, 0.0]]), None).tolist()
    [10.0, 4.0]
    """
    if score not in get_args(PartScore):
        raise PlanError(f"Parts have no score {score!r}; there are: {', '.join(get_args(PartScore))}.")
    rows, columns = matrix.shape
    if score == "random":
        return np.asarray(np.random.default_rng(seed).random(columns))
    known = statistics if score != "magnitude" else None
    h = np.ones(columns) if known is None else known.input_square
    g = np.ones(rows) if known is None or score != "influence" else known.output_fisher
    half = 0.5 if score == "influence" else 1.0
    return np.asarray(half * h * (g @ np.square(matrix, dtype=np.float64)))


def best(losses: Doubles, count: int) -> list[int]:
    """Returns the `count` parts worth most, ascending; of equal ones the first.

    >>> best(np.array([1.0, 3.0, 2.0, 3.0]), 2)
    [1, 3]
    """
    return sorted(int(i) for i in np.argsort(-losses, kind="stable")[:count])
