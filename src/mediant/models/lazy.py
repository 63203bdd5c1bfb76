"""Tensors that are read when they are written: what structural edits take and give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LazyTensor:
    """A tensor by its shape and type; `read` gives its values, anew each time, so that nothing large stays."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]

    @classmethod
    def of(cls, values: torch.Tensor) -> LazyTensor:
        """Returns a tensor that is in memory already.

        >>> LazyTensor.of(torch.zeros(2, 3)).shape
        (2, 3)
        """
        return cls(tuple(values.shape), values.dtype, lambda: values)

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def take(self, axis: int, index: Sequence[int]) -> LazyTensor:
        """Returns the entries `index` of an axis, in that order.

        >>> LazyTensor.of(torch.arange(6).reshape(2, 3)).take(1, [2, 0]).read().tolist()
        [[2, 0], [5, 3]]
        """
        shape = (*self.shape[:axis], len(index), *self.shape[axis + 1 :])
        chosen = torch.tensor(list(index), dtype=torch.int64)
        return LazyTensor(shape, self.dtype, lambda: self.read().index_select(axis, chosen))

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> LazyTensor:
        """Returns a lazy tensor of this shape and type; `change` computes its values from these, in float64."""
        return LazyTensor(self.shape, self.dtype, lambda: change(self.read().double()).to(self.dtype))

    def cast(self, dtype: torch.dtype) -> LazyTensor:
        """Rounds the values to another type, when they are read.

        >>> LazyTensor.of(torch.tensor([0.1])).cast(torch.bfloat16).read().item()
        0.10009765625
        """
        return LazyTensor(self.shape, dtype, lambda: self.read().to(dtype))
