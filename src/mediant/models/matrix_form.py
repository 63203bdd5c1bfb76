"""A tensor and its matrix: rows = outputs, columns = inputs, whatever way round the model stores it."""

from __future__ import annotations

import numpy as np

from mediant.values import Array, TensorInfo


def to_matrix(array: Array, info: TensorInfo) -> Array:
    """Returns the matrix of shape `info.matrix_shape` whose rows are outputs; a view where memory order allows it.

    >>> info = TensorInfo("w", (2, 3), "float32", "linear", "in_out")
    >>> to_matrix(np.arange(6).reshape(2, 3), info).tolist()
    [[0, 3], [1, 4], [2, 5]]

    Raises:
        PlanError: the layout is `none`.
    """
    return _outputs_first(array, info).reshape(info.matrix_shape)


def from_matrix(matrix: Array, info: TensorInfo) -> Array:
    """Returns the inverse of `to_matrix`: the tensor of shape `info.shape`, contiguous."""
    stack = matrix.reshape(_outputs_first(np.empty(info.shape, np.bool_), info).shape)
    return np.ascontiguousarray(_outputs_first(stack, info))


def _outputs_first(array: Array, info: TensorInfo) -> Array:
    """Swaps the last two axes where inputs come first; doing it twice changes nothing."""
    return np.swapaxes(array, -1, -2) if info.layout in ("in_out", "experts_in_out") else array
