"""What every attention pattern promises, checked on every file of methods/attention against dense masked attention."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mediant import discovery
from mediant.errors import UsageError
from mediant.kernels import sparse_attention
from mediant.kernels.attention_tile import dense

PATTERNS = {
    "local": [{}, {"block": 1, "before": 0}, {"block": 7, "before": 0}, {"block": 16, "before": 2}, {"block": 70}],
    "sliding_window": [
        {}, {"window": 1, "sinks": 0}, {"window": 5, "sinks": 3}, {"window": 64, "sinks": 0},
        {"window": 100, "sinks": 1},
    ],
    "block_sparse": [
        {}, {"block": 1, "near": 0, "first": 0}, {"block": 8, "near": 1, "first": 2},
        {"block": 16, "near": 2, "first": 0, "stride": 3}, {"block": 8, "near": 4, "first": 1, "stride": 2},
        {"block": 16, "near": 0, "first": 0, "top": 2}, {"block": 8, "near": 1, "first": 1, "top": 12},
    ],
}  # fmt: skip
CASES = [{"name": name, **settings} for name in discovery.names("attention") for settings in PATTERNS[name]]
SHAPES = [(1, 1, 1, 1, 1, 8), (2, 4, 2, 77, 77, 8), (1, 3, 3, 300, 300, 5), (2, 6, 2, 9, 213, 16), (1, 2, 1, 1, 190, 4)]


def tensors(batch, heads, key_heads, queries, keys, size, dtype=torch.float32, seed=0):
    """q, k, v and a gradient of the output; large enough that the softmax is far from even."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(heads, queries), (key_heads, keys), (key_heads, keys), (heads, queries)]
    return [2 * torch.randn(batch, h, n, size, generator=generator).to(dtype) for h, n in shapes]


def reference(pattern, q, k, v, gradient, scale, softcap):
    """Output and gradients of dense masked attention in float64."""
    inputs = [x.detach().double().requires_grad_() for x in (q, k, v)]
    out = dense(*inputs, pattern.mask(q, k), scale, softcap)
    return [out.detach(), *torch.autograd.grad(out, inputs, gradient.double())]


def computed(pattern, q, k, v, gradient, scale, softcap):
    inputs = [x.detach().requires_grad_() for x in (q, k, v)]
    out = pattern.attend(*inputs, scale, softcap)
    return [out.detach(), *torch.autograd.grad(out, inputs, gradient)]


def bounds(pattern, q, k, v, gradient, scale, softcap):
    """How far output and gradients may be off, with e the unit roundoff, s the scale, d the size, m and n the numbers
    of keys and of queries that share a head of keys.

    A score is off by at most D = (d + 2) e s max|q| max|k| in the norms, or what tanh does to it (its slope is at most
    1, its own error a few e c); a share P_ij, by P_ij (2 D + (m + 16) e), merges among that. So the output is off by
    that much of max|v|. With M >= |dO_i · V_j|, a gradient of a score P_ij (dP_ij - delta_i) is off by at most
    P_ij M E, E = 4 D (slope included) + (2 d + 2 m + 32) e; sums over keys have Σ_j P_ij = 1, over queries at most n.
    """
    e = torch.finfo(q.dtype).eps / 2
    norm = lambda x: float(x.double().norm(dim=-1).max())  # noqa: E731
    size, keys = q.shape[-1], k.shape[2]
    shared = q.shape[2] * q.shape[1] // k.shape[1]
    score = (size + 2) * e * scale * norm(q) * norm(k) + 8 * e * (softcap or 0)
    share = 2 * score + (keys + 16) * e
    most, error = norm(gradient) * norm(v), 4 * score + (2 * size + 2 * keys + 32) * e
    # The slope 1 - (s / c)^2 is off by less than 2 / c for every unit by which a score is.
    error += 2 * score / softcap if softcap else 0
    return [
        norm(v) * share,
        scale * norm(k) * most * error,
        scale * norm(q) * most * (error + shared * e) * shared,
        norm(gradient) * (share + shared * e) * shared,
    ]


def off(found, wanted):
    return [float((f.double() - w).norm(dim=-1).max()) for f, w in zip(found, wanted, strict=True)]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_dense_masked_attention(case, softcap, dtype):
    pattern = discovery.make("attention", case)
    for shape in SHAPES:
        inputs = tensors(*shape, dtype=dtype)
        scale = shape[-1] ** -0.5
        wanted = reference(pattern, *inputs, scale, softcap)
        found = computed(pattern, *inputs, None, softcap)
        assert all(f.dtype == dtype for f in found)
        limits = bounds(pattern, *inputs, scale, softcap)
        assert all(o <= limit for o, limit in zip(off(found, wanted), limits, strict=True)), (shape, limits)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_pair_too_many_or_too_few_would_be_found(case):
    """The comparison of the test above fails when the reference is another pattern."""
    pattern, inputs = discovery.make("attention", case), tensors(2, 4, 2, 77, 77, 8)
    mask = pattern.mask(*inputs[:2]).expand(2, 4, 77, 77).clone()
    limits = bounds(pattern, *inputs, 8**-0.5, None)
    found = computed(pattern, *inputs, None, None)
    # A pair of the last token, whose share of the softmax is not negligible, becomes forbidden or allowed.
    for allowed in {bool(a) for a in mask[0, 0, -1].unique()} - ({True} if int(mask[0, 0, -1].sum()) == 1 else set()):
        scores = (inputs[0][0, 0, -1] @ inputs[1][0, 0].T).masked_fill(mask[0, 0, -1] != allowed, -torch.inf)
        changed = mask.clone()
        changed[0, 0, -1, scores.argmax()] = not allowed
        other = type("Other", (), {"mask": lambda self, q, k, m=changed: m})()
        wrong = off(found, reference(other, *inputs, 8**-0.5, None))
        assert any(w > limit for w, limit in zip(wrong, limits, strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_token_by_token_is_the_same_as_at_once(case):
    pattern = discovery.make("attention", case)
    q, k, v, g = tensors(1, 4, 2, 150, 150, 8)
    at_once, limits = pattern.attend(q, k, v), bounds(pattern, q, k, v, g, 8**-0.5, None)
    done = 0
    for length in (60, 1, 1, 7, 64, 1, 16):
        end = done + length
        part = pattern.attend(q[:, :, done:end], k[:, :, :end], v[:, :, :end])
        # Both are within the limit of the exact output.
        assert off([part], [at_once[:, :, done:end].double()])[0] <= 2 * limits[0]
        done = end
    assert done == 150


@pytest.mark.parametrize("case", CASES, ids=str)
def test_masks_are_causal_and_count_what_they_say(case):
    pattern = discovery.make("attention", case)
    for tokens in (1, 2, 63, 64, 65, 150):
        q, k, *_ = tensors(1, 1, 1, tokens, tokens, 4)
        mask = pattern.mask(q, k).expand(1, 1, tokens, tokens)[0, 0]
        assert mask.diagonal().all()
        assert not mask.triu(1).any()
        assert math.isclose(pattern.keys_per_query(tokens), float(mask.double().sum() / tokens), rel_tol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_types_lose_only_their_own_rounding(case, dtype):
    pattern = discovery.make("attention", case)
    q, k, v, _ = (x.to(dtype) for x in tensors(1, 2, 1, 90, 90, 8))
    out = pattern.attend(q, k, v)
    assert out.dtype == dtype
    assert torch.equal(out, pattern.attend(q.float(), k.float(), v.float()).to(dtype))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_strides_do_not_matter(case):
    pattern = discovery.make("attention", case)
    q, k, v, _ = tensors(2, 4, 2, 90, 90, 8)
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    longer = [torch.cat([x, x], 2)[:, :, : x.shape[2]] for x in (q, k, v)]
    for same in (turned, longer):
        assert torch.equal(pattern.attend(*same), pattern.attend(q, k, v))


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that anything makes, views left aside."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        result = function(*arguments, **settings or {})
        for x in result if isinstance(result, list | tuple) else [result]:
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return result


@pytest.mark.parametrize(
    "case",
    [
        {"name": "local", "block": 64},
        {"name": "sliding_window", "window": 64},
        {"name": "block_sparse", "block": 16, "near": 2},
        {"name": "block_sparse", "block": 64, "near": 0, "first": 0, "top": 1},
    ],
    ids=str,
)
def test_memory_is_linear(case, monkeypatch):
    pattern, batch = discovery.make("attention", case), 1 << 15
    monkeypatch.setattr(sparse_attention, "BATCH_PAIRS", batch)
    monkeypatch.setattr("mediant.methods.attention.block_sparse.CHOOSING", 128)
    largest = {}
    for tokens in (1024, 4096):
        with Largest() as seen:
            computed(pattern, *tensors(1, 1, 1, tokens, tokens, 8), None, None)
        largest[tokens] = seen.elements
    assert largest[4096] <= max(batch, 4 * largest[1024])
    assert largest[4096] <= max(batch, 4096 * 64)
    with Largest() as seen:
        dense(*tensors(1, 1, 1, 1024, 1024, 8)[:3], torch.ones(1024, 1024).bool())
    assert seen.elements >= 1024**2


@pytest.mark.parametrize("name", discovery.names("attention"))
def test_shapes_that_do_not_belong_together(name):
    attend = discovery.make("attention", {"name": name}).attend
    q, k, v, _ = tensors(2, 4, 2, 5, 7, 8)
    for wrong, message in [
        ((q[0], k, v), "3, 4 and 4 dimensions"),
        ((q, k, v[:, :, 1:]), "do not belong together"),
        ((q[..., 1:], k, v), "do not belong together"),
        ((q[:, :3], k, v), "3 heads of queries do not divide among 2"),
        ((q, k[:, :, :4], v[:, :, :4]), "5 queries for 4 keys"),
    ]:
        with pytest.raises(UsageError, match=message):
            attend(*wrong)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_spec_comes_back_through_json(case):
    pattern = discovery.make("attention", case)
    assert discovery.make("attention", json.loads(json.dumps(discovery.spec(pattern)))) == pattern
