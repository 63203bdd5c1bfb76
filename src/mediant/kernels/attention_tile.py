"""Softmax attention of a batch of tiles: some queries against some of the keys, and the gradients of that.

With scores S = s Q Kᵀ, or c tanh(s Q Kᵀ / c) for a softcap c (Gemma 2, arXiv 2408.00118, section 2), a tile gives

    l = log Σ_j exp S_ij,        O_i = Σ_j exp(S_ij - l_i) V_j.

Tiles that share a query are merged by their l, which loses nothing, and gradients need only the merged l and O:
P_ij = exp(S_ij - l_i) is then the share of that key among all keys of the query, whatever tile it is in
(FlashAttention-2, Dao 2023, arXiv 2307.08691, section 3.1).

Shapes: queries [tiles, rows, size], keys and values [tiles, columns, size], l [tiles, rows, 1]; float32 or float64.
Forbidden pairs are given by column ranges, since most tiles have them at the edges only.

The native twin of `forward` adds in another order and takes exponentials of its own: it agrees to a tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mediant.errors import UsageError
from mediant.kernels import native, threads

# Fewer queries than this do not repay turning the keys into panels.
NATIVE_ROWS = 16


@dataclass(frozen=True)
class Edge:
    """A range of columns from `start` in which not every pair is allowed: `bias` [rows, width] is 0 or -inf."""

    start: int
    bias: Tensor


def edge(start: int, allowed: Tensor) -> Edge:
    """Returns the edge for a table [rows, width] of which pairs are allowed.

    >>> edge(3, torch.tensor([[True, False]])).bias
    tensor([[0., -inf]])
    """
    return Edge(start, torch.zeros(allowed.shape).masked_fill_(~allowed, -torch.inf))


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    edges: Sequence[Edge],
    scale: float,
    softcap: float | None,
    first: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """O and l of each tile; `first` are keys and values besides, all of which are allowed.

    Every query must be allowed a key.
    """
    if native is not None and softcap is None and q.dtype == torch.float32 and q.device.type == "cpu":
        first_k, first_v = first or (k[:, :0], v[:, :0])
        rows_last = all(x.stride(-1) == 1 for x in (q, k, v, first_k, first_v))
        if q.shape[1] >= NATIVE_ROWS and rows_last:
            return _forward_native(q, k, v, first_k, first_v, edges, scale)
    found = forward_reference(q, k, v, edges, scale, softcap)
    return found if first is None else merge(*found, *forward_reference(q, *first, (), scale, softcap))


def forward_reference(
    q: Tensor, k: Tensor, v: Tensor, edges: Sequence[Edge], scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """`forward` in PyTorch."""
    s, _ = _scores(q, k, edges, scale, softcap)
    top = s.amax(-1, keepdim=True)
    p = s.sub_(top).exp_()
    total = p.sum(-1, keepdim=True)
    return torch.bmm(p, v).div_(total), top.add_(total.log_())


def _forward_native(
    q: Tensor, k: Tensor, v: Tensor, first_k: Tensor, first_v: Tensor, edges: Sequence[Edge], scale: float
) -> tuple[Tensor, Tensor]:
    out, log_total = q.new_empty(*q.shape[:2], v.shape[2]), q.new_empty(*q.shape[:2], 1)
    biases = [(e.start, e.bias) for e in edges]
    count = min(threads(), torch.get_num_threads())
    native.attention_tile(q, k, v, first_k, first_v, biases, scale, out, log_total, count)  # type: ignore[union-attr]
    return out, log_total


def backward(
    output_gradient: Tensor,
    delta: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    l: Tensor,  # noqa: E741, the paper's letter
    edges: Sequence[Edge],
    scale: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v.

    Args:
        output_gradient: dO, that of the merged output.
        delta: Σ dO O over the merged output, [tiles, rows, 1].
        q, k, v, edges, scale, softcap: as for `forward`.
        l: merged over all tiles of a query.
    """
    s, slope = _scores(q, k, edges, scale, softcap)
    p = s.sub_(l).exp_()
    v_gradient = torch.bmm(p.mT, output_gradient)
    s_gradient = torch.bmm(output_gradient, v.mT).sub_(delta).mul_(p)
    if slope is not None:
        s_gradient.mul_(slope)
    s_gradient.mul_(scale)
    return torch.bmm(s_gradient, k), torch.bmm(s_gradient.mT, q), v_gradient


def merge(o: Tensor, l: Tensor, o_more: Tensor, l_more: Tensor) -> tuple[Tensor, Tensor]:  # noqa: E741
    """O and l of queries over the keys of two tiles together."""
    both = torch.logaddexp(l, l_more)
    return o.lerp(o_more, (l_more - both).exp_()), both


def dense(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, scale: float | None = None, softcap: float | None = None
) -> Tensor:
    """Returns the definition of what all sparse attention must equal: every score, then those that are not allowed left
    out.

    Args:
        q: [batch, heads, queries, size].
        k, v: [batch, key heads, keys, size]; heads that divide into groups share a key head.
        allowed: which pairs count, [queries, keys] or whatever broadcasts to [batch, heads, queries, keys].
        scale: of the scores; None is size^-1/2.
        softcap: bound of the scores.
    """
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    s = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        s = softcap * torch.tanh(s / softcap)
    return s.masked_fill(~allowed, -torch.inf).softmax(-1) @ v


def check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuses what is not one attention.

    Raises:
        UsageError: the shapes do not belong together, or there are more queries than keys.
    """
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4:
        raise UsageError(
            f"Attention takes (batch, heads, tokens, size); q, k and v have {q.ndim}, {k.ndim} and {v.ndim} dimensions."
        )
    if k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise UsageError(f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} do not belong together.")
    if not k.shape[1] or q.shape[1] % k.shape[1]:
        raise UsageError(f"{q.shape[1]} heads of queries do not divide among {k.shape[1]} heads of keys.")
    if q.shape[2] > k.shape[2]:
        raise UsageError(f"There are {q.shape[2]} queries for {k.shape[2]} keys; every query is one of the tokens.")


def _scores(
    q: Tensor, k: Tensor, edges: Sequence[Edge], scale: float, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """S with -inf where a pair is forbidden, and its derivative by the product where a softcap bends it."""
    slope = None
    s = torch.bmm(q * scale, k.mT)
    if softcap is not None:
        t = s.div_(softcap).tanh_()
        slope = 1 - t * t
        s = t.mul_(softcap)
    for e in edges:
        repeats = q.shape[1] // len(e.bias)
        s[..., e.start : e.start + e.bias.shape[1]] += e.bias.to(s).repeat(repeats, 1)
    return s, slope
