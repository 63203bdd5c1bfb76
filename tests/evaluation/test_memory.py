import numpy as np

from mediant.evaluation.memory import peak_bytes


def test_the_peak_covers_what_was_touched_and_never_falls() -> None:
    before = peak_bytes()
    block = np.ones(32 * 2**20 // 8)
    assert peak_bytes() >= max(before, block.nbytes)
    peak = peak_bytes()
    del block
    assert peak_bytes() >= peak
