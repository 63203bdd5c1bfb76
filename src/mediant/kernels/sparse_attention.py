"""Causal attention in which each query sees some of the keys, as a list of tiles; only their pairs are ever computed.

A method says which tiles (methods/attention); here they are taken out of q, k and v without copies where strides allow
it, worked through in batches that stay in the cache, and merged. The reference is `attention_tile.dense`.

Queries are the last of the keys' tokens: with m keys and n queries, query i has the position m - n + i. Heads that
share a head of keys lie in one tile, one below the other.

Cost: the pairs of the tiles, twice the products of that in the forward and five times in the backward pass. Memory
beside inputs and outputs: `BATCH_PAIRS` scores, however long the text is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mediant.kernels.attention_tile import Edge, backward, check_shapes, forward, merge

# Scores computed at once: they should stay in the second-level cache of the processor.
BATCH_PAIRS = 1 << 19


class Batch(Protocol):
    """Some tiles: how they are taken out of arrays of queries or keys, and put back."""

    @property
    def edges(self) -> Sequence[Edge]:
        """Tiles of the batch in which some pairs are forbidden."""

    @property
    def also(self) -> int:
        """Number of first keys of the text that every query of the tiles sees besides."""

    def queries(self, x: Rows) -> Tensor:
        """[tiles, rows, size]."""

    def first_keys(self, x: Rows) -> Tensor:
        """[tiles, also, size]."""

    def add_first_keys(self, x: Rows, tiles: Tensor) -> None:
        """Adds to what `first_keys` reads."""

    def keys(self, x: Rows) -> Tensor:
        """[tiles, columns, size]."""

    def set_queries(self, x: Rows, tiles: Tensor) -> None:
        """Writes what `queries` reads."""

    def add_queries(self, x: Rows, tiles: Tensor) -> None:
        """Adds to what `queries` reads."""

    def add_keys(self, x: Rows, tiles: Tensor) -> None:
        """Adds to what `keys` reads; a key may be in several tiles."""


@dataclass(frozen=True)
class Rows:
    """A contiguous array [heads, group, tokens, size] as one list of rows, with a spare one at the end if `spare`."""

    flat: Tensor
    heads: int
    group: int
    tokens: int

    @classmethod
    def of(cls, x: Tensor, key_heads: int) -> Rows:
        """Queries or keys [batch, heads, tokens, size], with heads in groups that share one of the key heads."""
        heads, tokens = x.shape[0] * key_heads, x.shape[2]
        return cls(x.contiguous().view(-1, x.shape[3]), heads, x.shape[0] * x.shape[1] // heads, tokens)

    def zeros(self, size: int) -> Rows:
        """Returns an array of as many rows and a spare one, all zero."""
        return Rows(self.flat.new_zeros(self._shape(size)), self.heads, self.group, self.tokens)

    def unset(self, size: int) -> Rows:
        """Allocates rows of this layout with `size` values each, uninitialized."""
        return Rows(self.flat.new_empty(self._shape(size)), self.heads, self.group, self.tokens)

    def _shape(self, size: int) -> tuple[int, int]:
        return self.heads * self.group * self.tokens + 1, size

    def shaped(self, shape: torch.Size) -> Tensor:
        """Returns the array without the spare row, as [batch, heads, tokens, size]."""
        return self.flat[: self.heads * self.group * self.tokens].view(*shape[:3], -1)

    def windows(self, heads: range, first: int, step: int, count: int, length: int) -> Tensor:
        """Returns a view [heads, count, group, length, size] of windows of tokens that start `step` apart."""
        size = self.flat.shape[1]
        head, part = self.group * self.tokens * size, self.tokens * size
        return self.flat.as_strided(
            (len(heads), count, self.group, length, size),
            (head, step * size, part, size, 1),
            self.flat.storage_offset() + heads.start * head + first * size,
        )


@dataclass(frozen=True)
class Tiles:
    """`count` tiles of `rows` queries from the query `query` and `columns` keys from the key `key`, then `step` on.

    `also`: so many first keys of the text besides. `again`: these queries have been in other tiles before.
    """

    query: int
    rows: int
    key: int
    columns: int
    count: int = 1
    step: int = 0
    edges: tuple[Edge, ...] = ()
    also: int = 0
    again: bool = False

    def batches(self, queries: Rows) -> Iterator[Batch]:
        """Yields the tiles of all heads, as many at once as `BATCH_PAIRS` allows."""
        if not self.count or not self.rows or not self.columns:
            return
        most = max(1, BATCH_PAIRS // (queries.group * self.rows * (self.columns + self.also)))
        if self.count == 1:
            for h in range(0, queries.heads, most):
                yield _Strided(self, range(h, min(queries.heads, h + most)), 0, 1)
        else:
            for h in range(queries.heads):
                for t in range(0, self.count, most):
                    yield _Strided(self, range(h, h + 1), t, min(most, self.count - t))


@dataclass(frozen=True)
class _Strided:
    """Tiles `first` to `first + count` of `tiles` for some heads; one of the two counts is 1, so that views merge."""

    tiles: Tiles
    heads: range
    first: int
    count: int

    @property
    def edges(self) -> Sequence[Edge]:
        return self.tiles.edges

    @property
    def also(self) -> int:
        return self.tiles.also

    def first_keys(self, x: Rows) -> Tensor:
        view = x.windows(self.heads, 0, 0, self.count, self.also)
        return view.view(view.shape[0] * self.count, self.also, -1)

    def add_first_keys(self, x: Rows, tiles: Tensor) -> None:
        view = x.windows(self.heads, 0, 0, 1, self.also)
        view.add_(tiles.view(view.shape[0], self.count, 1, self.also, -1).sum(1, keepdim=True))

    def queries(self, x: Rows) -> Tensor:
        view = self._query_view(x)
        return view.reshape(view.shape[0] * self.count, -1, view.shape[-1])

    def keys(self, x: Rows) -> Tensor:
        view = self._key_view(x, 0, self.tiles.columns)
        return view.view(view.shape[0] * self.count, self.tiles.columns, -1)

    def set_queries(self, x: Rows, tiles: Tensor) -> None:
        view = self._query_view(x)
        view.copy_(tiles.view(view.shape))

    def add_queries(self, x: Rows, tiles: Tensor) -> None:
        view = self._query_view(x)
        view.add_(tiles.view(view.shape))

    def add_keys(self, x: Rows, tiles: Tensor) -> None:
        # Windows overlap; parts of them that are one step long do not.
        part = self.tiles.columns if self.count == 1 else self.tiles.step
        for start in range(0, self.tiles.columns, part):
            piece = tiles[:, start : start + part]
            view = self._key_view(x, start, piece.shape[1])
            view.add_(piece.reshape(view.shape))

    def _query_view(self, x: Rows) -> Tensor:
        t = self.tiles
        return x.windows(self.heads, t.query + self.first * t.step, t.step, self.count, t.rows)

    def _key_view(self, x: Rows, start: int, length: int) -> Tensor:
        t = self.tiles
        return x.windows(self.heads, t.key + start + self.first * t.step, t.step, self.count, length)


@dataclass(frozen=True)
class Gathered:
    """Tiles of any queries, each against one stretch of keys; no query twice. All pairs are allowed.

    `queries` [tiles, rows] are row numbers in `Rows.flat`, the spare row where a tile has fewer; `keys` [tiles] is the
    row number of the first of `columns` keys.
    """

    queries_at: Tensor
    keys_at: Tensor
    columns: int
    again: bool = True

    def batches(self, queries: Rows) -> Iterator[Batch]:
        """Batches of as many tiles as `BATCH_PAIRS` allows."""
        most = max(1, BATCH_PAIRS // (self.queries_at.shape[1] * self.columns))
        for chosen, start in zip(self.queries_at.split(most), self.keys_at.split(most), strict=True):
            yield _Gathered(chosen, start[:, None] + torch.arange(self.columns, device=start.device))


@dataclass(frozen=True)
class _Gathered:
    rows: Tensor
    columns: Tensor
    edges: Sequence[Edge] = ()
    also: int = 0

    def first_keys(self, x: Rows) -> Tensor:
        raise NotImplementedError

    def add_first_keys(self, x: Rows, tiles: Tensor) -> None:
        raise NotImplementedError

    def queries(self, x: Rows) -> Tensor:
        # An input has no spare row; whatever is read in its place is written to the spare row of an output.
        at = self.rows.clamp(max=len(x.flat) - 1)
        return x.flat.index_select(0, at.flatten()).view(*at.shape, -1)

    def keys(self, x: Rows) -> Tensor:
        return x.flat.index_select(0, self.columns.flatten()).view(*self.columns.shape, -1)

    def set_queries(self, x: Rows, tiles: Tensor) -> None:
        x.flat.index_copy_(0, self.rows.flatten(), tiles.flatten(0, 1))

    def add_queries(self, x: Rows, tiles: Tensor) -> None:
        x.flat.index_add_(0, self.rows.flatten(), tiles.flatten(0, 1))

    def add_keys(self, x: Rows, tiles: Tensor) -> None:
        x.flat.index_add_(0, self.columns.flatten(), tiles.flatten(0, 1))


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tiles: Sequence[Tiles | Gathered],
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Returns attention over the pairs of `tiles`, which cover every query; like q, and with gradients of q, k and v.

    Args:
        q: [batch, heads, queries, size].
        k, v: [batch, key heads, keys, size]; a type of less than 32 bits is computed with in float32.
        tiles: which pairs. For `Gathered`, rows are those of `Rows.of(q, key heads)` and of k.
        scale: of the scores; None is size^-1/2.
        softcap: bound of the scores, or None.

    Raises:
        UsageError: the shapes do not belong together.
    """
    check_shapes(q, k, v)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    wider = (x.to(wide) for x in (q, k, v))
    out: Tensor = _Attention.apply(*wider, tuple(tiles), scale, softcap)  # type: ignore[no-untyped-call]
    return out.to(q.dtype)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, q: Tensor, k: Tensor, v: Tensor, tiles: Sequence[Tiles | Gathered],
        scale: float, softcap: float | None,
    ) -> Tensor:  # fmt: skip
        queries, keys, values = (Rows.of(x, k.shape[1]) for x in (q, k, v))
        o, log_total = queries.unset(v.shape[-1]), queries.unset(1)
        for part in tiles:
            for batch in part.batches(queries):
                first = (batch.first_keys(keys), batch.first_keys(values)) if batch.also else None
                here = batch.queries(queries), batch.keys(keys), batch.keys(values)
                found = forward(*here, batch.edges, scale, softcap, first)
                if part.again:
                    found = merge(batch.queries(o), batch.queries(log_total), *found)
                batch.set_queries(o, found[0])
                batch.set_queries(log_total, found[1])
        # The spare row has no share of anything in the backward pass.
        log_total.flat[-1], o.flat[-1] = torch.inf, 0
        context.save_for_backward(q, k, v, o.flat, log_total.flat)
        context.settings = tiles, scale, softcap
        return o.shaped(q.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, o, log_total = context.saved_tensors
        tiles, scale, softcap = context.settings
        queries, keys, values = (Rows.of(x, k.shape[1]) for x in (q, k, v))
        o_gradient = Rows.of(gradient, k.shape[1])
        logs, delta = queries.zeros(1), queries.zeros(1)
        logs.flat.copy_(log_total)
        delta.flat[:-1] = (o_gradient.flat * o[:-1]).sum(-1, keepdim=True)
        gradients = (queries.zeros(q.shape[-1]), keys.zeros(k.shape[-1]), values.zeros(v.shape[-1]))
        for part in tiles:
            for batch in part.batches(queries):
                above = batch.queries(o_gradient), batch.queries(delta), batch.queries(queries)
                log = batch.queries(logs)
                of_q, of_k, of_v = backward(
                    *above, batch.keys(keys), batch.keys(values), log, batch.edges, scale, softcap
                )
                if batch.also:
                    first = batch.first_keys(keys), batch.first_keys(values)
                    more, of_first_k, of_first_v = backward(*above, *first, log, (), scale, softcap)
                    of_q.add_(more)
                    batch.add_first_keys(gradients[1], of_first_k)
                    batch.add_first_keys(gradients[2], of_first_v)
                batch.add_queries(gradients[0], of_q)
                batch.add_keys(gradients[1], of_k)
                batch.add_keys(gradients[2], of_v)
        shaped = (g.shaped(x.shape) for g, x in zip(gradients, (q, k, v), strict=True))
        return (*shaped, None, None, None)
