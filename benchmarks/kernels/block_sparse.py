"""Time of products with matrices pruned in blocks of 8 x 32, relative to the same matrix with its zeros.

    python benchmarks/kernels/block_sparse.py --json benchmarks/results/block_sparse.json

Shapes are those of SmolLM2's MLP; `native` is the decoder's dense product, `torch` that of transformers. Threads are
those of MEDIANT_THREADS. All three take turns in one process, and the best of all rounds counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mediant.kernels import threads
from mediant.kernels.block_sparse_matrix import BlockSparse
from mediant.methods.pruning.patterns.blocks import Blocks

SHAPES = ((1536, 576), (576, 1536))
TOKENS = (1, 16, 256)


def best(works: list[Callable[[], object]], rounds: int) -> list[float]:
    """The least seconds of each, in turns."""
    found = [float("inf")] * len(works)
    for _ in range(rounds):
        for i, work in enumerate(works):
            began = time.perf_counter()
            work()
            found[i] = min(found[i], time.perf_counter() - began)
    return found


def row(shape: tuple[int, int], sparsity: float, tokens: int, rounds: int) -> dict[str, float]:
    generator = np.random.default_rng(0)
    mask = Blocks(sparsity).mask(generator.random(shape))
    matrix = (generator.standard_normal(shape) * mask).astype(np.float32)
    sparse = BlockSparse.of(matrix, mask, 8, 32)
    dense = BlockSparse.of(matrix, np.ones(shape, np.bool_), 8, shape[1])
    x = generator.standard_normal((tokens, shape[1])).astype(np.float32)
    inputs, weight = torch.from_numpy(x), torch.from_numpy(matrix)
    assert np.array_equal(sparse.multiply(x), dense.multiply(x))
    ours, native, plain = best(
        [lambda: sparse.multiply(x), lambda: dense.multiply(x), lambda: torch.nn.functional.linear(inputs, weight)],
        rounds,
    )
    return {
        "rows": shape[0], "columns": shape[1], "zero_blocks": 1 - sparse.values.size / matrix.size, "tokens": tokens,
        "microseconds": 1e6 * ours, "of_native": ours / native, "of_torch": ours / plain,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(threads())
    rows = [
        row(shape, sparsity, tokens, max(30, given.rounds // tokens))
        for shape in SHAPES
        for sparsity in (0.5, 0.75)
        for tokens in TOKENS
    ]
    for found in rows:
        print(json.dumps(found))
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
