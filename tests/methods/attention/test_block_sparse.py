import pytest
import torch

from mediant.discovery import make
from mediant.errors import PlanError
from mediant.methods.attention.block_sparse import BlockSparse


def tensors(heads, key_heads, queries, keys, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(2, heads, queries, 8, generator=generator),
        torch.randn(2, key_heads, keys, 8, generator=generator),
    )


def test_fixed_blocks_are_the_definition():
    q, k = tensors(1, 1, 50, 70)
    mask = BlockSparse(block=4, near=1, first=2, stride=3).mask(q, k)
    for i in range(20, 70):
        for j in range(70):
            t, c = i // 4, j // 4
            seen = t - 1 <= c <= t or c < 2 or (t - c) % 3 == 0
            assert bool(mask[i - 20, j]) == (j <= i and seen)


def test_chosen_blocks_are_the_definition():
    """A loop over queries: the blocks of largest product with the mean of their keys, of those not seen anyway."""
    q, k = tensors(4, 2, 50, 90)
    pattern = BlockSparse(block=8, near=1, first=1, top=2)
    mask = pattern.mask(q, k)
    for b in range(2):
        for h in range(4):
            for i in range(40, 90):
                t, query = i // 8, q[b, h, i - 40].double()
                worth = {c: float(query @ k[b, h // 2, 8 * c : 8 * c + 8].double().mean(0)) for c in range(1, t - 1)}
                chosen = sorted(worth, key=worth.get, reverse=True)[:2]
                blocks = {0, t - 1, t, *chosen}
                assert mask[b, h, i - 40].tolist() == [j <= i and j // 8 in blocks for j in range(90)]


def test_what_a_query_looks_for_is_found_wherever_it_is():
    q, k = tensors(1, 1, 512, 512)
    v = torch.zeros_like(k)
    k[:, :, 100] = 40 * q[:, :, 500]
    v[:, :, 100] = 1
    assert (BlockSparse(block=16, near=1, first=1, top=1).attend(q, k, v)[:, :, 500] > 0.99).all()
    assert (BlockSparse(block=16, near=2, first=1).attend(q, k, v)[:, :, 500] == 0).all()


@pytest.mark.parametrize("spec", [{"block": 0}, {"near": -1}, {"top": -1}, {"stride": 2, "top": 1}])
def test_parameters_that_make_no_pattern(spec):
    with pytest.raises(PlanError, match="refuses"):
        make("attention", {"name": "block_sparse", **spec})
