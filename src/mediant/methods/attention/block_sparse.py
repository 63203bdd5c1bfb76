"""The text is cut into blocks; every token sees some of them: fixed ones, and the `top` that suit it best.

Computes softmax attention over the pairs j <= i for which the block c = floor(j / block) of the key is, for the block
t = floor(i / block) of the query,

    fixed:   t - near <= c <= t,   or   c < first,   or   stride > 0 and stride divides t - c
    chosen:  among the `top` other blocks before t with the largest q_i · mean of the block's keys.

Fixed blocks cost nothing to choose; chosen ones find what a query looks for wherever it is. A choice depends on the
query and on earlier keys alone, so a text that is read at once gives what reading it token by token gives; each head
of queries chooses for itself. The choice has no gradient. Not below some thousand tokens, where the choice costs more
than it saves: `sliding_window` is faster at the same number of keys.

Args of `attend`: see `mediant.methods.attention.Attention`; shapes are (batch, heads, tokens, size).

Source: fixed: the strided pattern of Sparse Transformers (Child et al. 2019), section 4.2, in blocks, and the window
and global blocks of BigBird (Zaheer et al. 2020), section 2, without its random ones; chosen: MoBA (Lu et al. 2025),
section 2.2, equations 4 to 7. Deviations: 1. `first` and `near` are always seen. 2. `top` does not count those.
3. BigBird's global blocks also see the whole text; here none looks ahead.

Cost: n ((near + first + top + 1) block) pairs for n tokens, n² / (2 block stride) more with a stride, and n² / block
products to choose; memory linear in n. Reading token by token with `top`, each step reads all keys once to choose.

>>> q = torch.randn(1, 1, 6, 4, generator=torch.Generator().manual_seed(0))
>>> BlockSparse(block=1, near=1, first=1).mask(q, q).int()
tensor([[1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 1, 1, 0, 0],
        [1, 0, 0, 1, 1, 0],
        [1, 0, 0, 0, 1, 1]], dtype=torch.int32)
>>> int(BlockSparse(block=1, near=1, first=1, top=1).mask(q, q)[0, 0, 5].sum())
4
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mediant.kernels.attention_tile import check_shapes
from mediant.kernels.sparse_attention import Gathered, Tiles, attention
from mediant.methods.attention._stretches import ROWS, full, pieces, positions, since_block

REFERENCES = (
    "Child et al. 2019, Generating Long Sequences with Sparse Transformers, arXiv:1904.10509",
    "Zaheer et al. 2020, Big Bird: Transformers for Longer Sequences, arXiv:2007.14062",
    "Lu et al. 2025, MoBA: Mixture of Block Attention for Long-Context LLMs, arXiv:2502.13189",
)
NEEDS: tuple[str, ...] = ()

# Queries that choose at once, so that their scores of all blocks stay small.
CHOOSING = 1024


@dataclass(frozen=True)
class BlockSparse:
    """Blocks of `block` tokens: `near` before the own one, the `first`, each `stride`-th (0: none), the best `top`."""

    block: int = 64
    near: int = 6
    first: int = 1
    stride: int = 0
    top: int = 0

    def __post_init__(self) -> None:
        if self.block < 1 or min(self.near, self.first, self.stride, self.top) < 0:
            raise ValueError("the block is less than 1 or a number of blocks less than 0")
        if self.stride and self.top:
            raise ValueError("blocks are either chosen or a stride apart; one of stride and top has to be 0")

    def mask(self, q: Tensor, k: Tensor) -> Tensor:
        """Allowed pairs: [queries, keys], or [batch, heads, queries, keys] if blocks are chosen."""
        i, j = positions(q, k)
        t, c = i // self.block, j // self.block
        seen = (t - c <= self.near) | (c < self.first)
        if self.stride:
            seen |= (t - c) % self.stride == 0
        if self.top:
            start, choice = self.choice(q, k)
            blocks = torch.zeros(*q.shape[:3], -(-k.shape[2] // self.block) + 1, dtype=torch.bool, device=q.device)
            # The last one stands for no choice.
            choice = choice.where(choice >= 0, blocks.shape[3] - 1)
            blocks[:, :, start - (k.shape[2] - q.shape[2]) :].scatter_(3, choice, True)
            seen = seen | blocks[..., :-1].repeat_interleave(self.block, 3)[..., : k.shape[2]]
        return (j <= i) & seen

    def choice(self, q: Tensor, k: Tensor) -> tuple[int, Tensor]:
        """Returns the first position from which there is a choice, and the blocks that each query from there on
        chooses.

        They are [batch, heads, queries, top], and -1 where there are fewer to choose from.
        """
        keys, offset = k.shape[2], k.shape[2] - q.shape[2]
        start = min(keys, max(offset, (self.near + self.first + 1) * self.block))
        means = k[:, :, : keys // self.block * self.block].unflatten(2, (-1, self.block)).mean(3)
        means = means.repeat_interleave(q.shape[1] // k.shape[1], 1)[:, :, self.first :].mT
        chosen = [self._best(q[:, :, i - offset : min(i + CHOOSING, keys) - offset], means, i)
                  for i in range(start, keys, CHOOSING)]  # fmt: skip
        return start, torch.cat([q.new_zeros(*q.shape[:2], 0, self.top, dtype=torch.int64), *chosen], 2)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, softcap: float | None = None
    ) -> Tensor:
        """Returns attention over the allowed pairs."""
        check_shapes(q, k, v)
        return attention(q, k, v, list(self._tiles(q, k)), scale, softcap)

    def keys_per_query(self, tokens: int) -> float:
        """Returns the mean number of keys of a query."""
        i = torch.arange(tokens)
        t = i // self.block
        far = (t - self.near - self.first).clamp(min=0)
        if self.stride:
            multiples = (t - self.first) // self.stride - self.near // self.stride
            hidden = far - multiples.clamp(min=0)
        else:
            hidden = far - far.clamp(max=self.top)
        return float((i + 1 - hidden * self.block).double().mean())

    @torch.no_grad()
    def _best(self, q: Tensor, means: Tensor, position: int) -> Tensor:
        """Returns the choice of some queries, the first at `position`, among blocks with means [batch, heads, size,
        blocks].
        """
        wide = torch.promote_types(q.dtype, torch.float32)
        scores = q.to(wide) @ means.to(wide)
        own = (torch.arange(position, position + q.shape[2], device=q.device) // self.block)[:, None]
        c = torch.arange(self.first, self.first + scores.shape[3], device=q.device)
        scores.masked_fill_(c >= own - self.near, -torch.inf)
        best, at = scores.topk(min(self.top, scores.shape[3]), -1)
        found = torch.where(best == -torch.inf, -1, at + self.first)
        return torch.nn.functional.pad(found, (0, self.top - found.shape[3]), value=-1)

    def _tiles(self, q: Tensor, k: Tensor) -> Iterator[Tiles | Gathered]:
        keys, offset, device = k.shape[2], k.shape[2] - q.shape[2], q.device
        # Up to here a token sees all earlier ones.
        first = max(offset, min(keys, (self.near + self.first + 1) * self.block))
        yield from full(offset, first, offset, device)
        yield from since_block(first, keys, self.block, self.near, offset, device, self.first * self.block)
        if self.stride:
            yield from self._strided(keys, offset)
        if self.top and first < keys:
            yield from self._chosen(q, k)

    def _strided(self, keys: int, offset: int) -> Iterator[Tiles]:
        """Blocks at a distance that the stride divides, beyond the near ones and after the first ones."""
        blocks = -(-keys // self.block)
        for distance in range(self.stride, blocks, self.stride):
            if distance <= self.near:
                continue
            for piece in pieces(max(offset, (distance + self.first) * self.block), keys, self.block):
                key = (piece.position // self.block - distance) * self.block
                yield Tiles(piece.position - offset, piece.length, key, self.block, piece.count, piece.step, again=True)

    def _chosen(self, q: Tensor, k: Tensor) -> Iterator[Gathered]:
        """For each rank of the choice, the queries that chose the same block, in tiles."""
        start, choice = self.choice(q, k)
        key_heads = k.shape[0] * k.shape[1]
        rows = torch.arange(q.shape[0] * q.shape[1] * q.shape[2], device=q.device).view(q.shape[:3])
        rows = rows[:, :, start - (k.shape[2] - q.shape[2]) :].flatten()
        head = torch.arange(key_heads, device=q.device).repeat_interleave(q.shape[0] * q.shape[1] // key_heads)
        for rank in range(self.top):
            block = choice[..., rank]
            first_key = head.view(*q.shape[:2], 1) * k.shape[2] + block * self.block
            yield from grouped(rows, first_key.flatten(), (block >= 0).flatten(), q[..., 0].numel(), self.block)


def grouped(queries: Tensor, keys: Tensor, valid: Tensor, spare: int, columns: int) -> Iterator[Gathered]:
    """Queries with the same key in common tiles; tiles are filled up with the row `spare`.

    >>> next(grouped(torch.tensor([0, 1, 2]), torch.tensor([8, 4, 8]), torch.ones(3).bool(), 9, 4)).queries_at[:, :3]
    tensor([[1, 9, 9],
            [0, 2, 9]])
    """
    queries, keys = queries[valid], keys[valid]
    if not len(keys):
        return
    order = keys.argsort(stable=True)
    distinct, times = keys[order].unique_consecutive(return_counts=True)
    tiles = (times + ROWS - 1) // ROWS
    first_tile, first_query = tiles.cumsum(0) - tiles, times.cumsum(0) - times
    rank = torch.arange(len(order), device=keys.device) - first_query.repeat_interleave(times)
    at = queries.new_full((int(tiles.sum()) * ROWS,), spare)
    at[first_tile.repeat_interleave(times) * ROWS + rank] = queries[order]
    yield Gathered(at.view(-1, ROWS), distinct.repeat_interleave(tiles), columns)


METHOD = BlockSparse


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block: int = 64,
    near: int = 6,
    first: int = 1,
    stride: int = 0,
    top: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Returns attention to fixed and chosen blocks; see `mediant.methods.attention.Attention`."""
    return BlockSparse(block, near, first, stride, top).attend(q, k, v, scale, softcap)
