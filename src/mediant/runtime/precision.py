"""Precision while running: how many bits of each code a token reads, and who decides that.

A model stored in the `nested` layout holds, in the first k bits of its codes, a good model of k bits. Reading fewer
bits takes less time and energy, in proportion. `Decoder.set_precision` takes effect with the next token; nothing is
loaded anew. `dial` says what a precision reads of each matrix. The policies here choose it for every token.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mediant.errors import UsageError

if TYPE_CHECKING:
    from mediant.runtime.decoder import Decoder
    from mediant.runtime.kv_cache import Sequence

Floats = NDArray[np.float32]
NUMBER = r"(\d+(?:\.\d+)?)"


class Policy(Protocol):
    """Writes one token at a precision of its own choice."""

    def next(self, decoder: Decoder, sequence: Sequence, last: int, state: Any) -> int:
        """Returns the token behind `last`, which is added to the sequence."""


def plain(decoder: Decoder, sequence: Sequence, last: int, state: Any) -> int:
    """Returns one token at the precision that is set."""
    return int(decoder.native.generate(sequence.cache, last, 1, state, [])[0])


@dataclass
class Budget:
    """Keeps the mean time of a token under `seconds`: one step down where it is over, up where there is room.

    There is room if the next precision, taken to cost in proportion to its bytes, would stay under nine tenths of the
    budget. Energy is time at the power that the machine draws while decoding: for a budget in joules give
    joules / watts.
    """

    seconds: float
    clock: Callable[[], float] = time.perf_counter
    _mean: float = field(default=0.0, init=False)
    _precision: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise UsageError(f"A budget of {self.seconds} seconds a token cannot be kept; give a positive number.")

    def next(self, decoder: Decoder, sequence: Sequence, last: int, state: Any) -> int:
        """Writes a token, then adjusts."""
        steps = decoder.precisions
        if self._precision not in steps:
            self._precision = steps[-1]
        decoder.set_precision(self._precision)
        began = self.clock()
        token = plain(decoder, sequence, last, state)
        took = self.clock() - began
        self._mean = took if self._mean == 0 else 0.7 * self._mean + 0.3 * took
        place = steps.index(self._precision)
        if self._mean > self.seconds and place > 0:
            self._move(steps[place - 1], decoder)
        elif place + 1 < len(steps) and self._mean * _growth(decoder, steps[place + 1]) < 0.9 * self.seconds:
            self._move(steps[place + 1], decoder)
        return token

    def _move(self, precision: float, decoder: Decoder) -> None:
        self._mean *= _growth(decoder, precision)
        self._precision = precision


@dataclass
class Load:
    """All bits on an idle machine, up to one bit fewer for every `step` of other work per processor."""

    step: float = 0.5
    load: Callable[[], float] = lambda: os.getloadavg()[0] / (os.cpu_count() or 1)
    every: int = 16
    _tokens: int = field(default=0, init=False)
    _precision: float | None = field(default=None, init=False)

    def next(self, decoder: Decoder, sequence: Sequence, last: int, state: Any) -> int:
        """Looks at the load every few tokens."""
        if self._tokens % self.every == 0:
            steps = decoder.precisions
            own = decoder.threads / (os.cpu_count() or 1) if self._tokens else 0.0
            wanted = steps[-1] - max(self.load() - own, 0.0) / self.step
            self._precision = next(bits for bits in steps if bits >= wanted)
        self._tokens += 1
        decoder.set_precision(self._precision)
        return plain(decoder, sequence, last, state)


@dataclass
class Confidence:
    """Reads a token with few bits first, and again with all where the likeliest next token has less than `least`.

    Text at which the model is sure costs the few bits alone. A second reading replaces what the first remembered.
    """

    least: float = 0.5
    first: float | None = None
    again: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.least <= 1:
            raise UsageError(f"A confidence is a probability from 0 to 1, not {self.least}.")

    def next(self, decoder: Decoder, sequence: Sequence, last: int, state: Any) -> int:
        """Reads once or twice, then chooses."""
        decoder.set_precision(decoder.precisions[0] if self.first is None else self.first)
        logits = decoder.step(sequence, last)
        if surest(logits) < self.least:
            self.again += 1
            sequence.truncate(sequence.length - 1)
            decoder.set_precision(None)
            logits = decoder.step(sequence, last)
        token = int(state.next(logits))
        state.saw(np.asarray([token], np.int32))
        return token


def policy_of(text: str) -> Policy:
    """Returns the policy that a command line names: `latency:30ms`, `energy:0.4J@15W`, `load`, `confidence`,
    `confidence:0.7`.

    Raises:
        UsageError: it names none.

    >>> policy_of("latency:30ms").seconds, policy_of("energy:0.3J@15W").seconds, policy_of("confidence:0.7").least
    (0.03, 0.02, 0.7)
    """
    kind, _, rest = text.partition(":")
    if kind == "latency" and (found := re.fullmatch(f"{NUMBER}(ms|s)", rest)):
        return Budget(float(found[1]) / (1000 if found[2] == "ms" else 1))
    if kind == "energy" and (found := re.fullmatch(f"{NUMBER}(mJ|J)@{NUMBER}W", rest)) and float(found[3]):
        return Budget(float(found[1]) / (1000 if found[2] == "mJ" else 1) / float(found[3]))
    if text == "load":
        return Load()
    if kind == "confidence" and (text == kind or re.fullmatch(NUMBER, rest)):
        return Confidence(float(rest)) if rest else Confidence()
    raise UsageError(
        f"There is no precision policy {text!r}; they are latency:30ms (a token), energy:0.4J@15W (a token, at the"
        " power of the machine), load, and confidence or confidence:0.7 (the least probability for few bits)."
    )


def surest(logits: Floats) -> float:
    """Returns the probability of the likeliest token.

    >>> round(surest(np.log(np.array([1, 3], np.float32))), 6)
    0.75
    """
    return float(1 / np.exp(logits - logits.max()).sum(dtype=np.float64))


def _growth(decoder: Decoder, precision: float) -> float:
    """Returns the bytes that a precision reads, relative to those of the present one."""
    return decoder.bytes_at(precision) / decoder.bytes_per_token


def own_text(decoder: Decoder, windows: int = 4, length: int = 128, seed: int = 1) -> list[list[int]]:
    """Returns windows of tokens that the model itself draws with all its bits, each from a token of its own choice."""
    from mediant.runtime.sampling import Sampling, sampler

    decoder.set_precision(None)
    texts = []
    for number in range(windows):
        state = sampler(Sampling(temperature=1.0, seed=seed + number), decoder.vocabulary)
        first = int(np.random.default_rng(seed + number).integers(decoder.vocabulary))
        sequence = decoder.sequence()
        texts.append([first, *decoder.native.generate(sequence.cache, first, length - 1, state, [])])
    return texts


def divergence(decoder: Decoder, precision: float, windows: list[list[int]]) -> float:
    """Returns the mean KL(all bits || `precision`), nats per token of the second halves of the windows."""
    found = []
    for window in windows:
        half = len(window) // 2
        decoder.set_precision(None)
        p = _log_softmax(decoder.logits(decoder.sequence(), window)[half - 1 : -1])
        decoder.set_precision(precision)
        q = _log_softmax(decoder.logits(decoder.sequence(), window)[half - 1 : -1])
        found.append(float((np.exp(p) * (p - q)).sum(-1).mean()))
    return float(np.mean(found))


def _log_softmax(logits: Floats) -> NDArray[np.float64]:
    z = logits.astype(np.float64)
    z -= z.max(-1, keepdims=True)
    result: NDArray[np.float64] = z - np.log(np.exp(z).sum(-1, keepdims=True))
    return result
