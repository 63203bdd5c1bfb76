"""The decoder in NumPy and float64, to be read and to be compared with: no cache, no threads, no chunks.

`mediant.runtime.decoder` must give these logits but for the rounding of float32 and of its keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediant.runtime.description import Description, LayerShape
from mediant.runtime.tensor_source import Source

Reals = NDArray[np.float64]


def logits(description: Description, source: Source, tokens: Sequence[int]) -> Reals:
    """Returns the logits [tokens, vocabulary] behind each token.

    `source.vector` must give the tensors of every shape decoded, matrices too.
    """
    return _Pass(description, source).logits(np.asarray(tokens))


class _Pass:
    def __init__(self, description: Description, source: Source):
        self.d, self._source = description, source

    def logits(self, tokens: NDArray[Any]) -> Reals:
        d = self.d
        x = d.embedding_scale * self._tensor(d.single["embedding"], "weight")[tokens]
        if "project_in" in d.single:
            x = self._linear(d.single["project_in"], x)
        if "positions" in d.single:
            table = self._tensor(d.single["positions"], "weight")
            x = x + table[np.arange(len(tokens)) + d.position_offset]
        for index, layer in enumerate(d.layers):
            x = self._layer(index, layer, x)
        if "final_norm" in d.single:
            x = self._norm(d.single["final_norm"], x)
        if "project_out" in d.single:
            x = self._linear(d.single["project_out"], x)
        head = d.single["head"] if f"{d.single['head']}.weight" in self._source else d.single["embedding"]
        return _cap(self._linear(head, x), d.logit_cap)

    def _layer(self, index: int, layer: LayerShape, x: Reals) -> Reals:
        for half in ("attention", "mlp"):
            before, behind = (self._named(f"{half}{kind}", index) for kind in ("_norm", "_post_norm"))
            y = self._norm(before, x) if self.d.norm_first else x
            y = self._attention(index, layer, y) if half == "attention" else self._mlp(index, y)
            x = x + (y if behind is None else self._norm(behind, y))
            if not self.d.norm_first:
                x = self._norm(before, x)
        return x

    def _mlp(self, index: int, x: Reals) -> Reals:
        up = self._linear(self._named("up", index), x)
        if "gate" not in self.d.matrices:
            return self._linear(self._named("down", index), _activate(self.d.activation, up))
        gate = self._linear(self._named("gate", index), x)
        return self._linear(self._named("down", index), _activate(self.d.activation, gate) * up)

    def _attention(self, index: int, layer: LayerShape, x: Reals) -> Reals:
        d, count = self.d, len(x)
        q = self._linear(self._named("query", index), x).reshape(count, d.heads, d.head_dim)
        k = self._linear(self._named("key", index), x).reshape(count, d.kv_heads, d.head_dim)
        v = self._linear(self._named("value", index), x).reshape(count, d.kv_heads, d.head_dim)
        if "query_norm" in d.norms:
            q, k = self._norm(self._named("query_norm", index), q), self._norm(self._named("key_norm", index), k)
        if layer.rope >= 0:
            q, k = self._turn(layer.rope, q), self._turn(layer.rope, k)
        k, v = (np.repeat(a, d.heads // d.kv_heads, axis=1) for a in (k, v))
        scores = _cap(np.einsum("ihd,jhd->hij", q, k) * d.attention_scale, d.attention_cap)
        distance = np.arange(count)[:, None] - np.arange(count)
        seen = (distance >= 0) & ((distance < layer.window) | (layer.window == 0))
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hij,jhd->ihd", weights / weights.sum(-1, keepdims=True), v)
        return self._linear(self._named("out", index), mixed.reshape(count, -1))

    def _turn(self, rope: int, x: Reals) -> Reals:
        """Pairs (i, half + i) of each head turned by position times frequency, a float32 product."""
        frequencies, scale = self.d.ropes[rope].frequencies, self.d.ropes[rope].scale
        angles = (np.arange(len(x), dtype=np.float32)[:, None] * frequencies).astype(np.float64)[:, None]
        cosine, sine, half = np.cos(angles) * scale, np.sin(angles) * scale, len(frequencies)
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return np.concatenate([a * cosine - b * sine, b * cosine + a * sine, rest], axis=-1)

    def _norm(self, module: str | None, x: Reals) -> Reals:
        weight, bias = (self._optional(module, part) for part in ("weight", "bias"))
        if self.d.layer_norm:
            x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.d.epsilon))
        x = x if weight is None else x * (weight + self.d.norm_offset)
        return x if bias is None else x + bias

    def _linear(self, module: str | None, x: Reals) -> Reals:
        bias = self._optional(module, "bias")
        y = x @ self._tensor(module, "weight").T
        return y if bias is None else y + bias

    def _named(self, role: str, index: int) -> str | None:
        name = {**self.d.matrices, **self.d.norms}.get(role)
        return None if name is None else name.format(index)

    def _optional(self, module: str | None, part: str) -> Reals | None:
        return self._tensor(module, part) if f"{module}.{part}" in self._source else None

    def _tensor(self, module: str | None, part: str) -> Reals:
        return self._source.vector(f"{module}.{part}").astype(np.float64)


def _activate(name: str, x: Reals) -> Reals:
    if name == "relu":
        return np.asarray(np.maximum(x, 0))
    if name == "gelu":
        return np.asarray(x * np.vectorize(lambda value: 0.5 * math.erfc(-value / math.sqrt(2)))(x))
    u = x if name == "silu" else 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return np.asarray(x / (1 + np.exp(-u)))


def _cap(x: Reals, cap: float) -> Reals:
    return cap * np.tanh(x / cap) if cap else x
