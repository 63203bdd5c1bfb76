"""Every token sees the last `window` tokens, itself among them, and the first `sinks` tokens of the text.

Computes softmax attention over the pairs with

    i - window < j <= i   or   j < sinks, j <= i

for a query at position i and a key at position j. The first tokens take up much of the attention of a trained network
whatever they are, so leaving them out ruins it, and a handful of them saves it (StreamingLLM). After L layers news
travels L windows. `local` has fixed blocks in place of a window that moves along, `block_sparse` also sees blocks far
back. Not for layers that look something up in a long text: `mediant analyze --attention` tells which those are.

Args of `attend`: see `mediant.methods.attention.Attention`; shapes are (batch, heads, tokens, size).

Source: window: Beltagy et al. 2020, section 3.1, and Mistral 7B, section 2; sinks: Xiao et al. 2023, section 3.2.
Deviation from the latter: keys keep the positions that they have in the text, not those in the cache.

Cost: n (window + 64 + sinks) pairs for n tokens; memory linear in n, and never a table of n x n.

>>> q = torch.randn(1, 1, 6, 4, generator=torch.Generator().manual_seed(0))
>>> SlidingWindow(window=2, sinks=1).mask(q, q).int()
tensor([[1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 1, 1, 0, 0],
        [1, 0, 0, 1, 1, 0],
        [1, 0, 0, 0, 1, 1]], dtype=torch.int32)
>>> bool((attend(q, q, q, window=1, sinks=0) == q).all())
True
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mediant.kernels.attention_tile import Edge, check_shapes, edge
from mediant.kernels.sparse_attention import Tiles, attention
from mediant.methods.attention._stretches import ROWS, full, positions

REFERENCES = (
    "Beltagy, Peters and Cohan 2020, Longformer: The Long-Document Transformer, arXiv:2004.05150",
    "Jiang et al. 2023, Mistral 7B, arXiv:2310.06825",
    "Xiao et al. 2023, Efficient Streaming Language Models with Attention Sinks, arXiv:2309.17453",
)
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class SlidingWindow:
    """`window` tokens back, and the first `sinks` (4, as in the paper)."""

    window: int = 512
    sinks: int = 4

    def __post_init__(self) -> None:
        if self.window < 1 or self.sinks < 0:
            raise ValueError("the window is less than 1 or the number of sinks less than 0")

    def mask(self, q: Tensor, k: Tensor) -> Tensor:
        """Allowed pairs, [queries, keys]."""
        i, j = positions(q, k)
        return (j <= i) & ((j > i - self.window) | (j < self.sinks))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, softcap: float | None = None
    ) -> Tensor:
        """Returns attention over the allowed pairs."""
        check_shapes(q, k, v)
        return attention(q, k, v, list(self._tiles(q.shape[2], k.shape[2], q.device)), scale, softcap)

    def keys_per_query(self, tokens: int) -> float:
        """Returns the mean number of keys of a query."""
        reach = min(tokens, self.window + self.sinks)
        return (reach * (reach + 1) / 2 + (tokens - reach) * (self.window + self.sinks)) / tokens

    def _tiles(self, queries: int, keys: int, device: torch.device) -> Iterator[Tiles]:
        offset, reach = keys - queries, self.window + self.sinks
        first = max(offset, min(reach, keys))
        yield from full(offset, first, offset, device)
        whole = (keys - first) // ROWS
        yield self._band(first - offset, first, ROWS, whole, device)
        yield self._band(first - offset + whole * ROWS, first + whole * ROWS, (keys - first) % ROWS, 1, device)

    def _band(self, query: int, position: int, rows: int, count: int, device: torch.device) -> Tiles:
        """Returns windows of `rows` queries; their first column is no query's, which makes the number of columns
        even.
        """
        i, j = torch.arange(rows, device=device)[:, None], torch.arange(rows, device=device)
        edges: tuple[Edge, ...] = (edge(0, j > i), edge(self.window, j <= i))
        return Tiles(query, rows, position - self.window, self.window + rows, count, rows, edges, self.sinks)


METHOD = SlidingWindow


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int = 512,
    sinks: int = 4,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Returns attention to the last `window` tokens and the first `sinks`; see
    `mediant.methods.attention.Attention`.
    """
    return SlidingWindow(window, sinks).attend(q, k, v, scale, softcap)
