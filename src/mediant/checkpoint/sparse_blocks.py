"""Matrices that were pruned in whole blocks, as the blocks that they keep."""

from __future__ import annotations

from mediant.checkpoint.manifest import Entry
from mediant.checkpoint.reader import Checkpoint
from mediant.kernels.block_sparse import BlockSparse
from mediant.kernels.part_shapes import SparseForm


def stored_blocks(checkpoint: Checkpoint, name: str) -> BlockSparse | None:
    """The matrix of a tensor as the blocks that it keeps; None for one that is stored in another way."""
    if not in_blocks(checkpoint.tensors[name]):
        return None
    form, encoding = checkpoint.tensors[name].form, checkpoint.encoding(name)
    assert isinstance(form, SparseForm)  # `in_blocks` says so
    mask = form.positions.decode(encoding.parts["positions"])
    return BlockSparse.of(checkpoint.weight(name), mask, form.positions.height, form.positions.width)


def in_blocks(entry: Entry) -> bool:
    """Whether a tensor is a matrix pruned in whole blocks, equally many in each row, its rows the outputs."""
    if not isinstance(entry.form, SparseForm) or entry.info.layout != "out_in":
        return False
    return entry.form.positions.kind == "blocks" and entry.form.positions.row > 0
