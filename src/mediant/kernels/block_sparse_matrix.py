"""A matrix of which only some blocks are not zero times vectors, without work for the others.

In every row of blocks equally many blocks are kept (methods/pruning/patterns/blocks.py), so what these rows keep is a
dense matrix of fewer columns. The native twin gathers the inputs that belong to it, once for its `height` rows, and
multiplies as the decoder multiplies dense matrices. Zeros add nothing to a sum: where `width` is a multiple of 8 and so
is the number of columns, results are bit for bit those of the dense product.

Cost: the kept share of the dense product, and 1/height of that for gathering.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import native, threads

Floats = NDArray[np.float32]

# Below this many multiplications a thread costs more than it saves.
_WORK_PER_THREAD = 1 << 20


@dataclass(frozen=True)
class BlockSparse:
    """What a matrix [rows, columns] keeps: `values` [rows, kept], and the first column of each block of `width`.

    `starts` are int32 [rows / height, kept / width], ascending in each row.
    """

    values: Floats
    starts: NDArray[np.int32]
    width: int
    columns: int

    @classmethod
    def of(cls, matrix: Floats, mask: NDArray[np.bool_], height: int, width: int) -> BlockSparse:
        """Keeps the blocks of a matrix that the mask [rows, columns] of a block pattern allows.

        Raises:
            ValueError: the mask is not of whole blocks, equally many in each row of blocks.

        >>> found = BlockSparse.of(np.float32([[1, 2, 0, 0], [3, 4, 0, 0]]), np.bool_([[1, 1, 0, 0]] * 2), 2, 2)
        >>> found.values.tolist(), found.starts.tolist()
        ([[1.0, 2.0], [3.0, 4.0]], [[0]])
        """
        rows, columns = mask.shape
        blocks = mask.reshape(rows // height, height, columns // width, width)
        kept = blocks[:, 0, :, 0]
        count = int(kept[0].sum())
        if not (blocks == kept[:, None, :, None]).all() or count == 0 or (kept.sum(1) != count).any():
            raise ValueError("the mask is not of whole blocks, equally many in each row of blocks")
        starts = (np.flatnonzero(kept) % kept.shape[1] * width).reshape(-1, count).astype(np.int32)
        values = np.ascontiguousarray(matrix[mask].reshape(rows, count * width), np.float32)
        return cls(values, starts, width, columns)

    @property
    def height(self) -> int:
        """Rows of a block."""
        return len(self.values) // len(self.starts)

    def multiply(self, x: Floats) -> Floats:
        """Returns the matrix times every row of x [count, columns]: float32 [count, rows].

        Raises:
            ValueError: x has another number of columns.
        """
        if x.ndim != 2 or x.shape[1] != self.columns:
            raise ValueError(f"a matrix of {self.columns} columns multiplies vectors of as many numbers")
        if native is None:
            return self.multiply_reference(x)
        y = np.empty((len(x), len(self.values)), np.float32)
        count = min(threads(), 1 + self.values.size * len(x) // _WORK_PER_THREAD)
        inputs = np.ascontiguousarray(x, np.float32)
        native.block_sparse_product(self.values, self.starts, self.width, inputs, y, count)
        return y

    def multiply_reference(self, x: Floats) -> Floats:
        """`multiply` in NumPy: sums in float64, rounded once."""
        places = (self.starts[:, :, None] + np.arange(self.width)).reshape(len(self.starts), -1)
        values = self.values.reshape(len(self.starts), self.height, -1).astype(np.float64)
        y = np.einsum("bhk,nbk->nbh", values, x.astype(np.float64)[:, places])
        return np.asarray(y.reshape(len(x), -1), np.float32)
