"""Compares several language models with one reference, which runs only once for every window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mediant.evaluation.divergence import Comparison, Forward, compare
from mediant.progress import SILENT, Progress


def compare_all(
    reference: Forward, candidates: Sequence[Forward], windows: torch.Tensor, progress: Progress = SILENT
) -> list[Comparison]:
    """Compares each candidate with the reference as `compare` does, in one pass over the windows.

    Args:
        reference: the model whose distribution counts as the truth.
        candidates: the models that are judged; all of them are in memory.
        windows: token ids, int64 [windows, window].
        progress: told after each window.

    Raises:
        ModelError: as for `compare`.
    """
    found: list[list[Comparison]] = [[] for _ in candidates]
    for window in progress.track(windows, "Comparing the models", len(windows)):
        expected = _remembered(reference, window[None])
        for candidate, mine in zip(candidates, found, strict=True):
            mine.append(compare(expected, candidate, window[None]))
    return [_joined(mine) for mine in found]


@torch.inference_mode()
def _remembered(reference: Forward, ids: torch.Tensor) -> Forward:
    logits = reference(ids)
    return lambda _: logits


def _joined(windows: Sequence[Comparison]) -> Comparison:
    return Comparison(*(np.concatenate([getattr(w, name) for w in windows]) for name in vars(windows[0])))
