"""Positions come back, in as many bytes as stated before; what is damaged is refused; the ranks are those of Lehmer."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.kernels.sparse_positions import KINDS, Positions, has_ranks


def random_mask(rows, columns, stored, seed=0):
    mask = np.zeros(rows * columns, bool)
    mask[np.random.default_rng(seed).permutation(rows * columns)[:stored]] = True
    return mask.reshape(rows, columns)


@given(st.integers(1, 9), st.integers(1, 700), st.floats(0.001, 1), st.integers(0, 99))
def test_any_mask_comes_back(rows, columns, share, seed):
    stored = max(1, round(share * rows * columns))
    mask = random_mask(rows, columns, stored, seed)
    for kind in ("mask", "ordered"):
        positions = Positions(kind, rows, columns, stored)
        data = positions.encode(mask)
        assert len(data) == positions.nbytes
        assert np.array_equal(positions.decode(data), mask)
    smallest = Positions.smallest(rows, columns, stored)
    assert smallest.nbytes == min(Positions(k, rows, columns, stored).nbytes for k in ("mask", "ordered"))


@pytest.mark.parametrize(("keep", "of"), [(1, 2), (2, 4), (3, 4), (4, 8), (1, 16), (2, 16)])
def test_all_combinations_come_back(keep, of):
    sets = list(combinations(range(of), keep))
    mask = np.zeros((len(sets), of), bool)
    for row, chosen in enumerate(sets):
        mask[row, list(chosen)] = True
    positions = Positions("combinations", len(sets), of, len(sets) * keep, keep, keep, of)
    data = positions.encode(mask)
    assert len(data) == positions.nbytes
    assert np.array_equal(positions.decode(data), mask)
    assert not positions.fault()


def test_the_rank_of_a_set_is_its_place_among_all():
    """Rank of {c_1 < c_2 < …} = Σ C(c_i, i): the combinatorial number system."""
    for chosen in combinations(range(8), 4):
        mask = np.isin(np.arange(8), chosen)[None]
        data = Positions("combinations", 1, 8, 4, 4, 4, 8).encode(mask)
        rank = sum(comb(c, i + 1) for i, c in enumerate(chosen))
        assert sum(int(b & 1) << (6 - i) for i, b in enumerate(data)) == rank


def test_blocks_come_back_and_are_whole():
    mask = np.kron(random_mask(3, 4, 6), np.ones((2, 5))).astype(bool)
    positions = Positions("blocks", 6, 20, 60, height=2, width=5)
    assert np.array_equal(positions.decode(positions.encode(mask)), mask)
    assert positions.nbytes == 2
    mask[0, 0] = ~mask[0, 0]
    mask[5, 19] = ~mask[5, 19]
    with pytest.raises(ValueError, match=r"is not what was planned|in part"):
        positions.encode(mask)


def test_damage_is_refused():
    mask = random_mask(4, 32, 16)
    for kind in ("mask", "ordered"):
        positions = Positions(kind, 4, 32, 16)
        data = positions.encode(mask)
        for byte in range(len(data)):
            for bit in range(8):
                wrong = data.copy()
                wrong[byte] ^= 1 << bit
                try:
                    assert positions.decode(wrong).sum() == 16
                except ValueError:
                    continue
    with pytest.raises(ValueError, match="as many"):
        Positions("mask", 4, 32, 16, row=4).decode(np.full(16, 0x88, np.uint8) ^ np.eye(16, dtype=np.uint8)[0])
    with pytest.raises(ValueError, match="rank"):
        Positions("combinations", 1, 4, 2, 2, 2, 4).decode(np.full(3, 255, np.uint8))
    with pytest.raises(ValueError, match="does not keep"):
        Positions("combinations", 1, 8, 4, 4, 2, 4).encode(np.arange(8)[None] < 4)
    with pytest.raises(ValueError, match="planned"):
        Positions("mask", 4, 32, 15).encode(mask)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"kind": "mask"},
        {"kind": "other", "stored": 4},
        {"kind": "mask", "stored": 0},
        {"kind": "mask", "stored": 33},
        {"kind": "mask", "stored": 4, "row": 2},
        {"kind": "mask", "stored": True},
        {"kind": "mask", "stored": 4, "more": 1},
        {"kind": "combinations", "stored": 16, "row": 4, "keep": 4, "of": 8, "width": 0},
        {"kind": "combinations", "stored": 16, "row": 4, "keep": 2, "of": 3},
        {"kind": "combinations", "stored": 16, "row": 4, "keep": 10**9, "of": 2 * 10**9},
        {"kind": "blocks", "stored": 16, "height": 3, "width": 2},
        {"kind": ["mask"], "stored": 4},
    ],
)
def test_impossible_positions_are_refused(data):
    with pytest.raises(ValueError, match=r"positions|fit|unknown"):
        Positions.from_dict(4, 8, data)


def test_dictionaries_come_back():
    for positions in (
        Positions.smallest(4, 8, 16, 4),
        Positions("combinations", 4, 8, 16, 4, 4, 8),
        Positions("blocks", 4, 8, 16, 4, height=2, width=2),
    ):
        assert Positions.from_dict(4, 8, positions.to_dict()) == positions
        assert positions.kind in KINDS
    assert not has_ranks(0, 4)
    assert not has_ranks(10**9, 2 * 10**9)
