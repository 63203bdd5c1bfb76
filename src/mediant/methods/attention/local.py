"""The text is cut into blocks; every token sees its own block up to itself, and `before` blocks before it.

Computes softmax attention over the pairs with

    j <= i   and   floor(i / block) - floor(j / block) <= before

for a query at position i and a key at position j. With `before` 0 blocks know nothing of one another, and the cache of
a decoder starts anew with each: the least memory of all patterns, but the first token of a block sees itself alone. A
token sees `before * block + 1` to `(before + 1) * block` tokens, where `sliding_window` always shows as many.

Args of `attend`: see `mediant.methods.attention.Attention`; shapes are (batch, heads, tokens, size).

Source: Image Transformer (Parmar et al. 2018), section 3.3, 1-D local attention; with `before` 1, Reformer (Kitaev et
al. 2020), section 2, after sorting. Deviation from the former: the memory block does not overlap the query block.

Cost: n (before + 1/2) block + 32 n pairs for n tokens; memory linear in n.

>>> q = torch.randn(1, 1, 6, 4, generator=torch.Generator().manual_seed(0))
>>> Local(block=2, before=1).mask(q, q).int()
tensor([[1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 1, 1, 1, 1]], dtype=torch.int32)
>>> bool((attend(q, q, q, block=1, before=0) == q).all())
True
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mediant.kernels.attention_tile import check_shapes
from mediant.kernels.sparse_attention import Tiles, attention
from mediant.methods.attention._stretches import full, positions, since_block

REFERENCES = (
    "Parmar et al. 2018, Image Transformer, arXiv:1802.05751",
    "Kitaev, Kaiser and Levskaya 2020, Reformer: The Efficient Transformer, arXiv:2001.04451",
)
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Local:
    """Blocks of `block` tokens (256, as in the paper), each with `before` earlier ones."""

    block: int = 256
    before: int = 1

    def __post_init__(self) -> None:
        if self.block < 1 or self.before < 0:
            raise ValueError("the block is less than 1 or the number of blocks before it less than 0")

    def mask(self, q: Tensor, k: Tensor) -> Tensor:
        """Allowed pairs, [queries, keys]."""
        i, j = positions(q, k)
        return (j <= i) & (i // self.block - j // self.block <= self.before)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, softcap: float | None = None
    ) -> Tensor:
        """Returns attention over the allowed pairs."""
        check_shapes(q, k, v)
        return attention(q, k, v, list(self._tiles(q.shape[2], k.shape[2], q.device)), scale, softcap)

    def keys_per_query(self, tokens: int) -> float:
        """Returns the mean number of keys of a query."""
        i = torch.arange(tokens)
        return float((i + 1 - (i // self.block - self.before).clamp(min=0) * self.block).double().mean())

    def _tiles(self, queries: int, keys: int, device: torch.device) -> Iterator[Tiles]:
        offset = keys - queries
        # Up to here there are not as many blocks before a token.
        first = max(offset, min(keys, self.before * self.block))
        yield from full(offset, first, offset, device)
        yield from since_block(first, keys, self.block, self.before, offset, device)


METHOD = Local


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block: int = 256,
    before: int = 1,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Returns attention to a token's own block and `before` earlier ones; see `mediant.methods.attention.Attention`."""
    return Local(block, before).attend(q, k, v, scale, softcap)
