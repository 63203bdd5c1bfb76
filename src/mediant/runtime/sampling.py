"""How the next token is chosen from the logits z [vocabulary].

In this order: a token already seen has its logit divided by the repetition penalty where positive, multiplied where
negative (Keskar et al. 2019, arXiv 1909.05858); temperature 0 takes the largest logit, the first of equals; else
weights exp((z - max z) / temperature); top-k keeps the k largest, top-p the fewest largest that make up that share of
the weight left, min-p those of at least that share of the largest (Nguyen et al. 2024, arXiv 2407.01082); and a token
is drawn with SplitMix64. `Sampler` here is the reference of the native one: same draws for the same seed, but for
logits so close that float32 rounding decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediant.errors import UsageError
from mediant.kernels import native

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens; the defaults take the likeliest each time."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {
            "temperature": self.temperature >= 0,
            "top_k": self.top_k >= 0,
            "top_p": 0 <= self.top_p <= 1,
            "min_p": 0 <= self.min_p <= 1,
            "repetition_penalty": self.repetition_penalty > 0,
            "seed": 0 <= self.seed < 1 << 64,
        }
        for name, fine in limits.items():
            if not fine:
                raise UsageError(f"The {name.replace('_', ' ')} cannot be {getattr(self, name)}.")


def sampler(sampling: Sampling, vocabulary: int) -> Any:
    """Returns a native sampler, or its reference where there is no native code."""
    if native is None:
        return Sampler(sampling, vocabulary)
    s = sampling
    return native.Sampler(s.temperature, s.top_k, s.top_p, s.min_p, s.repetition_penalty, s.seed, vocabulary)


class Sampler:
    """The reference: `next` may change the logits it is given."""

    def __init__(self, sampling: Sampling, vocabulary: int):
        self.sampling, self._vocabulary, self._state = sampling, vocabulary, sampling.seed
        self._seen: set[int] = set()

    def saw(self, tokens: Iterable[int]) -> None:
        """Counts tokens as used, for the repetition penalty."""
        self._seen.update(int(token) for token in tokens)

    def next(self, logits: Floats) -> int:
        """Returns the next token."""
        if self.sampling.temperature <= 0:
            return int(np.argmax(self._penalized(logits)))
        return self._draw(self.weights(logits))

    def distribution(self, logits: Floats) -> list[float]:
        """Returns the probabilities [vocabulary] with which `next` draws."""
        if self.sampling.temperature <= 0:
            chosen = np.zeros(self._vocabulary)
            chosen[np.argmax(self._penalized(logits))] = 1
            return chosen.tolist()
        weights = self.weights(logits)
        found: list[float] = (weights / weights.sum(dtype=np.float64)).tolist()
        return found

    def weights(self, logits: Floats) -> Floats:
        """Returns unnormalized probabilities of the tokens, relative to the likeliest one."""
        z = self._penalized(logits)
        s = self.sampling
        weights = np.exp((z - z.max()) * np.float32(1 / s.temperature)).astype(np.float32)
        order = np.argsort(-weights, kind="stable")
        if 0 < s.top_k < self._vocabulary:
            weights[order[s.top_k :]] = 0
        if s.top_p < 1:
            sums = np.cumsum(weights[order], dtype=np.float64)
            enough = int(np.searchsorted(sums, s.top_p * sums[-1], side="left")) + 1
            weights[order[enough:]] = 0
        weights[weights < s.min_p] = 0
        return np.asarray(weights)

    def _penalized(self, logits: Floats) -> Floats:
        penalty = np.float32(self.sampling.repetition_penalty)
        seen = sorted(self._seen)
        z = logits.copy()
        z[seen] = np.where(z[seen] > 0, z[seen] / penalty, z[seen] * penalty)
        return np.asarray(z)

    def _draw(self, weights: Floats) -> int:
        sums = np.cumsum(weights, dtype=np.float64)
        point = self.uniform() * sums[-1]
        return min(int(np.searchsorted(sums, point, side="right")), int(np.flatnonzero(weights)[-1]))

    def uniform(self) -> float:
        """SplitMix64 (Steele et al. 2014), its upper 53 bits as a number in [0, 1)."""
        mask = (1 << 64) - 1
        self._state = (self._state + 0x9E3779B97F4A7C15) & mask
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return ((z ^ (z >> 31)) >> 11) * 2.0**-53
