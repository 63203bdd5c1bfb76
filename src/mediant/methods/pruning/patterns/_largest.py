"""The largest entries of rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def largest(scores: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """Returns a mask [rows, columns] of the `count` largest entries of each row; of equal ones the first.

    >>> largest(np.array([[1.0, 2.0, 2.0, 2.0]]), 2).astype(int).tolist()
    [[0, 1, 1, 0]]
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    mask = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(mask, order, True, axis=1)
    return mask
