"""Tiles for stretches of queries that see all keys from a start up to themselves: what every pattern is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mediant.kernels.attention_tile import Edge, edge
from mediant.kernels.sparse_attention import Tiles

# Queries of a tile: more waste pairs at the edges, fewer make products too small for the processor.
ROWS = 64


@dataclass(frozen=True)
class Piece:
    """`count` runs of `length` queries, the first from `position` on and each `step` after the one before."""

    position: int
    length: int
    count: int = 1
    step: int = 0


def positions(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Returns positions of queries [queries, 1] and keys [keys]."""
    tokens = torch.arange(k.shape[2], device=k.device)
    return tokens[k.shape[2] - q.shape[2] :, None], tokens


def pieces(begin: int, end: int, block: int) -> Iterator[Piece]:
    """Yields the positions from `begin` to `end` as part of a block, whole blocks, and part of a block.

    >>> [(p.position, p.length, p.count) for p in pieces(5, 19, 4)]
    [(5, 3, 1), (8, 4, 2), (16, 3, 1)]
    """
    whole = min(end, -(-begin // block) * block)
    last = max(whole, end // block * block)
    if begin < whole:
        yield Piece(begin, whole - begin)
    if whole < last:
        yield Piece(whole, block, (last - whole) // block, block)
    if last < end:
        yield Piece(last, end - last)


def triangle(rows: int, columns: int, device: torch.device) -> Edge:
    """Returns a mask; the last `rows` of the columns are the queries themselves."""
    return edge(columns - rows, torch.ones(rows, rows, dtype=torch.bool, device=device).tril_())


def full(begin: int, end: int, offset: int, device: torch.device) -> Iterator[Tiles]:
    """Queries at positions from `begin` to `end` that see every key up to themselves."""
    for first in range(begin, end, ROWS):
        rows = min(ROWS, end - first)
        yield Tiles(first - offset, rows, 0, first + rows, edges=(triangle(rows, first + rows, device),))


def since_block(
    begin: int, end: int, block: int, before: int, offset: int, device: torch.device, also: int = 0
) -> Iterator[Tiles]:
    """Queries that see their own block up to themselves and `before` whole blocks before it; there are as many.

    They see the first `also` tokens besides, which lie before those blocks.
    """
    for piece in pieces(begin, end, block):
        start = (piece.position // block - before) * block
        for at in range(0, piece.length, ROWS):
            rows = min(ROWS, piece.length - at)
            columns = piece.position + at + rows - start
            yield Tiles(
                piece.position + at - offset, rows, start, columns, piece.count, piece.step,
                (triangle(rows, columns, device),), also,
            )  # fmt: skip
