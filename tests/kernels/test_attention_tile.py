"""Native and reference tiles against the definition in float64, on odd sizes, and merges of tiles."""

from __future__ import annotations

import pytest
import torch

from mediant.kernels import attention_tile, native
from mediant.kernels.attention_tile import backward, edge, forward, forward_reference, merge

FORMS = ["reference", *(["native"] if native is not None else [])]
SIZES = [(1, 16, 1, 1), (2, 17, 5, 3), (3, 64, 576, 64), (2, 23, 33, 80), (1, 99, 16, 8), (4, 20, 100, 65)]


def run(form, *arguments, **settings):
    if form == "native":
        assert attention_tile.native is not None
        return forward(*arguments, **settings)
    return forward_reference(*arguments, **settings)


def tensors(tiles, rows, columns, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = 2 * torch.randn(tiles, rows, size, generator=generator)
    # Windows that overlap, as those of neighbouring tiles do; a step of 16 is what the native kernel packs together.
    stream = 2 * torch.randn(2, 16 * tiles + columns, size, generator=generator)
    k, v = (x.as_strided((tiles, columns, size), (16 * size, size, 1)) for x in stream.unbind())
    return q, k, v.clone() if size % 16 else v


def definition(q, k, v, edges, scale):
    s = scale * q.double() @ k.double().mT
    for e in edges:
        s[..., e.start : e.start + e.bias.shape[1]] += e.bias.double().repeat(q.shape[1] // len(e.bias), 1)
    return s.softmax(-1) @ v.double(), s.logsumexp(-1, keepdim=True)


def limits(q, k, v, scale):
    """As in tests/contracts/test_attention.py; the logarithm is off by what its argument and the scores are."""
    unit = 2.0**-24
    norm = lambda x: float(x.double().norm(dim=-1).max())  # noqa: E731
    score = (q.shape[-1] + 2) * unit * scale * norm(q) * norm(k)
    # Two more units for an exponential, relative; its argument is off by half a unit of the largest score.
    share = 2 * score + scale * norm(q) * norm(k) * unit + (k.shape[1] + 16) * unit
    return norm(v) * share, share + unit * (scale * norm(q) * norm(k) + 20)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_it_is_the_definition(form, sizes):
    q, k, v = tensors(*sizes)
    rows, columns = sizes[1:3]
    allowed = torch.rand(rows, columns, generator=torch.Generator().manual_seed(1)) < 0.5
    allowed[:, 0] = True
    for edges in (
        (),
        (edge(0, allowed),),
        (edge(0, allowed[:1]),),
        (edge(columns // 2, allowed[:, : columns // 3 + 1]),),
    ):
        found = run(form, q, k, v, edges, 0.3, None)
        wanted = definition(q, k, v, edges, 0.3)
        for f, w, limit in zip(found, wanted, limits(q, k, v, 0.3), strict=True):
            assert float((f - w).norm(dim=-1).max()) <= limit
        if columns > 1:
            wrong = definition(q, k, v, (*edges, edge(0, torch.zeros(1, 1).bool())), 0.3)
            assert float((found[0] - wrong[0]).norm(dim=-1).max()) > limits(q, k, v, 0.3)[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 4, 20])
@pytest.mark.parametrize("shared", [False, True])
def test_first_keys_besides(form, count, shared):
    q, k, v = tensors(3, 23, 35, 20)
    firsts = [2 * torch.randn(3, count, 20, generator=torch.Generator().manual_seed(seed)) for seed in (5, 6)]
    if shared:
        firsts = [x[:1].expand(3, -1, -1) for x in firsts]
    edges = (edge(2, torch.ones(23, 33).tril().bool()),)
    wanted = definition(q, *(torch.cat(pair, 1) for pair in zip((k, v), firsts, strict=True)), edges, 0.3)
    if form == "native":
        found = forward(q, k, v, edges, 0.3, None, tuple(firsts))
    else:
        found = merge(*run(form, q, k, v, edges, 0.3, None), *run(form, q, *firsts, (), 0.3, None))
    both = torch.cat([k, firsts[0]], 1), torch.cat([v, firsts[1]], 1)
    for f, w, limit in zip(found, wanted, limits(q, *both, 0.3), strict=True):
        assert float((f - w).norm(dim=-1).max()) <= 2 * limit


@pytest.mark.parametrize("form", FORMS)
def test_scores_far_apart_and_large(form):
    """Shares of e^-200 are 0; scores of some thousand do not overflow."""
    q = torch.full((1, 20, 4), 10.0)
    k = torch.arange(-50, 50, dtype=torch.float32).repeat_interleave(4).view(1, 100, 4)
    out, log_total = run(form, q, k, k.clone(), (), 1.0, None)
    assert torch.equal(out, torch.full((1, 20, 4), 49.0))
    assert torch.equal(log_total, torch.full((1, 20, 1), 1960.0))


@pytest.mark.parametrize("form", FORMS)
def test_merged_tiles_are_one(form):
    q, k, v = tensors(2, 33, 90, 16)
    whole = definition(q, k, v, (), 0.3)
    parts = [run(form, q, k[:, a:b], v[:, a:b], (), 0.3, None) for a, b in ((0, 7), (7, 60), (60, 90))]
    merged = parts[0]
    for part in parts[1:]:
        merged = merge(*merged, *part)
    for m, w, limit in zip(merged, whole, limits(q, k, v, 0.3), strict=True):
        assert float((m - w).norm(dim=-1).max()) <= 2 * limit


@pytest.mark.skipif(native is None, reason="the native kernels are not built")
def test_threads_make_no_difference(monkeypatch):
    q, k, v = tensors(5, 40, 70, 32)
    results = []
    for count in (1, 3):
        monkeypatch.setattr(attention_tile, "threads", lambda count=count: count)
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        results.append(forward(q, k, v, (), 0.3, None))
    assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))


def test_gradients_are_those_of_autograd():
    q, k, v = (x.double().requires_grad_() for x in tensors(2, 9, 12, 5))
    edges = (edge(3, torch.ones(9, 9).tril().bool()),)
    for softcap in (None, 2.0):
        s = 0.3 * q @ k.mT
        s = s if softcap is None else softcap * torch.tanh(s / softcap)
        s[..., 3:] += edges[0].bias.double()
        out, total = s.softmax(-1) @ v, s.logsumexp(-1, keepdim=True)
        gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).double()
        wanted = torch.autograd.grad(out, (q, k, v), gradient)
        with torch.no_grad():
            delta = (gradient * out).sum(-1, keepdim=True)
            found = backward(gradient, delta, q, k, v, total, edges, 0.3, softcap)
        for f, w in zip(found, wanted, strict=True):
            # Sums of at most a hundred terms, three of them after one another, in float64.
            assert float((f - w).abs().max()) <= 1000 * 2.0**-53 * float(w.abs().max())
