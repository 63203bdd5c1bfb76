"""A matrix as groups of neighbouring columns, and the diagonal sensitivities that scales are fitted by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mediant.values import LayerStatistics

Floats = NDArray[np.float32]


def to_groups(matrix: Floats, group: int) -> Floats:
    """[rows, columns] as [rows * groups, group]; the last group of a row is filled up with zeros."""
    rows, columns = matrix.shape
    padding = -columns % group
    padded = np.pad(matrix, ((0, 0), (0, padding))) if padding else np.ascontiguousarray(matrix)
    return padded.reshape(rows * ((columns + padding) // group), group)


def sensitivities(statistics: LayerStatistics | None, rows: slice) -> Floats | None:
    """H for the given rows: [1, columns] where a row factor would cancel, [rows, columns] where two metrics add."""
    if statistics is None:
        return None
    h = statistics.input_square[None]
    if statistics.head_square is not None and statistics.head_fisher is not None:
        h = statistics.output_fisher[rows, None] * h
        h = h + statistics.head_fisher[rows, None] * statistics.head_square[None]
    peak = h.max()
    return (h / (peak if peak > 0 else 1)).astype(np.float32)


def group_weights(h: Floats | None, shape: tuple[int, int], group: int) -> Floats | None:
    """Sensitivities [rows * groups, group] of a matrix of that shape, 0 at the padding; None where all count alike."""
    # Padding must not count, so without sensitivities a padded matrix still needs weights.
    if h is None:
        return None if shape[1] % group == 0 else to_groups(np.ones(shape, np.float32), group)
    return to_groups(np.broadcast_to(h, shape), group)
