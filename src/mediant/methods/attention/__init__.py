"""Attention patterns: which earlier tokens a token attends to, and attention that computes no other pair."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Attention(Protocol):
    """What a file in this folder offers as `METHOD`: a frozen dataclass with these members.

    Queries are the last of the keys' tokens; a token attends to itself and to no later one. Every method also offers
    `attend` as a plain function that takes its parameters.
    """

    def mask(self, q: Tensor, k: Tensor) -> Tensor:
        """Allowed pairs, [queries, keys] or [batch, heads, queries, keys]: the readable reference."""

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, softcap: float | None = None
    ) -> Tensor:
        """Computes dense attention under `mask`, with gradients, in time that grows with the allowed pairs.

        Args:
            q: [batch, heads, queries, size], any real type.
            k, v: [batch, key heads, keys, size]; heads in groups may share a key head.
            scale: of the scores; None is size^-1/2.
            softcap: bound c of the scores, c tanh(s / c); None is no bound.

        Raises:
            UsageError: the shapes do not belong together.
        """

    def keys_per_query(self, tokens: int) -> float:
        """Returns the mean number of keys of a query in a text of so many tokens; dense attention has (tokens + 1) /
        2.
        """
