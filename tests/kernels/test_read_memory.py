"""Reading memory gives what NumPy gives, for any length and number of threads."""

from __future__ import annotations

import numpy as np
import pytest

from mediant.kernels.read_memory import read_memory, read_memory_reference


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000, 4096])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_word_counts(count, threads):
    words = np.random.default_rng(count).integers(0, 2**64, count, np.uint64)
    assert read_memory(words, threads) == read_memory_reference(words)
    for place in {0, count // 2, count - 1} & set(range(count)):
        changed = words.copy()
        changed[place] ^= np.uint64(1 << 40)
        assert read_memory(changed, threads) != read_memory(words, threads)
