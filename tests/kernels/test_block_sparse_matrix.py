"""Products with the blocks that are kept: the dense product, to the bit where blocks are as wide as lanes."""

from __future__ import annotations

import numpy as np
import pytest

from mediant.kernels import native
from mediant.kernels.block_sparse_matrix import BlockSparse
from mediant.methods.pruning.patterns.blocks import Blocks

SHAPES = [
    (8, 32, 8, 32, 1),
    (24, 96, 8, 32, 5),
    (6, 30, 2, 5, 50),
    (5, 9, 1, 3, 3),
    (16, 64, 16, 8, 49),
    (7, 21, 7, 1, 2),
]


def case(rows, columns, height, width, count, sparsity=0.5):
    generator = np.random.default_rng(rows * columns)
    mask = Blocks(sparsity, height, width).mask(generator.random((rows, columns)))
    matrix = (generator.standard_normal((rows, columns)) * mask).astype(np.float32)
    return matrix, BlockSparse.of(matrix, mask, height, width), generator.standard_normal((count, columns), np.float32)


@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_dense_product(shape, threads, monkeypatch):
    monkeypatch.setenv("MEDIANT_THREADS", threads)
    monkeypatch.setattr("mediant.kernels.block_sparse_matrix._WORK_PER_THREAD", 1)
    matrix, sparse, x = case(*shape)
    exact = x.astype(np.float64) @ matrix.T.astype(np.float64)
    # As many roundings as there are terms, and lanes that are added up, each of half a unit of the sum of magnitudes.
    reach = (shape[1] + 8) * 2.0**-24 * (np.abs(x).astype(np.float64) @ np.abs(matrix.T).astype(np.float64))
    for found in (sparse.multiply(x), sparse.multiply_reference(x)):
        assert found.shape == exact.shape
        assert (np.abs(found - exact) <= reach + 2.0**-24 * np.abs(exact)).all()
    # The comparison sees a block that is left out.
    assert (
        np.abs(BlockSparse(sparse.values * 0, sparse.starts, sparse.width, sparse.columns).multiply(x) - exact) > reach
    ).any()


@pytest.mark.skipif(native is None, reason="needs the native kernels")
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.75])
def test_zero_blocks_change_no_bit(sparsity):
    """Blocks as wide as lanes: nothing but products with zeros is left out, and a block apart is all there is."""
    matrix, sparse, x = case(24, 96, 8, 32, 50, sparsity)
    whole = BlockSparse.of(matrix, np.ones(matrix.shape, np.bool_), 8, 96)
    np.testing.assert_array_equal(sparse.multiply(x), whole.multiply(x))
    assert sparse.values.size == round((1 - sparsity) * 3) * 24 * 32


def test_masks_that_are_not_of_blocks_are_refused():
    mask = np.zeros((4, 8), np.bool_)
    for spoil in (lambda: None, lambda: mask.__setitem__((0, 0), True), lambda: mask.__setitem__(slice(0, 2), True)):
        spoil()
        with pytest.raises(ValueError, match="whole blocks"):
            BlockSparse.of(np.ones((4, 8), np.float32), mask, 2, 4)


def test_vectors_of_another_length_are_refused():
    with pytest.raises(ValueError, match="32 columns"):
        case(8, 32, 8, 32, 1)[1].multiply(np.ones((1, 31), np.float32))
