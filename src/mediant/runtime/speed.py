"""How fast a model decodes and reads prompts, in how much memory, and what share of the memory's bandwidth that is.

Decoding a token reads every weight once, so no decoder is faster than bandwidth / bytes. The bandwidth is measured in
the same run with the same threads. `python -m mediant.runtime.speed DIR PROMPT TOKENS ACTIVATION-BITS` measures memory
and loading in a process of its own, where nothing else counts.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Protocol

import numpy as np

from mediant.errors import MediantError, ModelError
from mediant.kernels.read_memory import read_memory
from mediant.progress import SILENT, Progress
from mediant.runtime.activation_bits import USUAL

BANDWIDTH_BYTES = 1 << 28
SHORT = 8


class Runner(Protocol):
    """A loaded model whose speed is measured."""

    vocabulary: int

    def set_threads(self, threads: int) -> None:
        """Sets the number of threads from now on."""

    def prefill_seconds(self, tokens: list[int]) -> float:
        """Seconds to read a text from its beginning, with the logits behind its end."""

    def decode_seconds(self, start: list[int], count: int) -> float:
        """Seconds for `count` tokens, one by one, behind `start`."""


class NativeRunner:
    """The native decoder of a folder."""

    def __init__(
        self,
        folder: str | Path,
        precision: float | None = None,
        activation_bits: int = USUAL,
        progress: Progress = SILENT,
    ):
        from mediant.runtime.decoder import Decoder

        self.decoder = Decoder.open(folder, activation_bits=activation_bits, progress=progress)
        self.decoder.set_precision(precision)
        self.vocabulary = self.decoder.vocabulary

    def set_threads(self, threads: int) -> None:
        """Restarts the pool."""
        self.decoder.set_threads(threads)

    def prefill_seconds(self, tokens: list[int]) -> float:
        """Returns a new sequence each time."""
        sequence = self.decoder.sequence()
        return _seconds(lambda: self.decoder.prefill(sequence, tokens))

    def decode_seconds(self, start: list[int], count: int) -> float:
        """Greedy, choosing the token included."""
        from mediant.runtime.sampling import Sampling, sampler

        sequence = self.decoder.sequence()
        self.decoder.prefill(sequence, start[:-1], logits=False)
        state = sampler(Sampling(), self.vocabulary)
        return _seconds(lambda: self.decoder.native.generate(sequence.cache, start[-1], count, state, []))


@dataclass
class Speeds:
    """Of one runner by thread count: tokens a second in each round."""

    decode: dict[int, list[float]] = field(default_factory=dict)
    prefill: dict[int, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One timing that comes next: of a runner, by its number, with so many threads; round 0 warms up."""

    runner: int
    threads: int
    round: int
    reading: bool


def steps(runners: int, threads: Sequence[int], rounds: int) -> list[Step]:
    """Returns all timings that `measure` makes, in order."""
    turns = product(threads, range(rounds + 1), range(runners), (False, True))
    return [Step(runner, number, attempt, reading) for number, attempt, runner, reading in turns]


def measure(
    runners: Sequence[Runner],
    threads: Sequence[int],
    prompt: int,
    count: int,
    rounds: int,
    before: Callable[[Step], object] = lambda step: None,
    found: Sequence[Speeds] | None = None,
) -> Sequence[Speeds]:
    """Returns the speeds of all runners, interleaved: each round takes every runner in turn, so that what disturbs the
    machine disturbs all. The first round warms up and is not counted.

    Args:
        runners: what is measured.
        threads: counts of threads, one after another.
        prompt: tokens that are read.
        count: tokens that are written.
        rounds: that count.
        before: is told of every timing before it begins.
        found: gets the figures as they come, for a caller that is interrupted; one for each runner.
    """
    found = [Speeds() for _ in runners] if found is None else found
    tokens = np.random.default_rng(1).integers(3, min(runner.vocabulary for runner in runners), prompt).tolist()
    current = None
    for step in steps(len(runners), threads, rounds):
        if step.threads != current:
            current = step.threads
            for runner in runners:
                runner.set_threads(current)
        before(step)
        runner, speeds = runners[step.runner], found[step.runner]
        seconds = runner.prefill_seconds(tokens) if step.reading else runner.decode_seconds(tokens[:SHORT], count)
        if step.round:
            kind = speeds.prefill if step.reading else speeds.decode
            kind.setdefault(step.threads, []).append((prompt if step.reading else count) / seconds)
    return found


def middle(values: list[float]) -> float:
    """Returns the median."""
    return float(statistics.median(values))


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Returns the median ratio of the rounds that both have."""
    return middle([a / b for a, b in zip(ours, theirs, strict=False)])


def bandwidth(threads: int) -> float:
    """Returns the bytes a second that so many threads draw from memory: the best of five passes over 256 MiB."""
    data = np.ones(BANDWIDTH_BYTES // 8, np.uint64)
    return max(BANDWIDTH_BYTES / _seconds(lambda: read_memory(data, threads)) for _ in range(5))


def alone(module: str, *arguments: str) -> dict[str, float]:
    """Runs `python -m module arguments` in a process of its own and returns the JSON that it prints.

    Raises:
        ModelError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ModelError(f"The measurement of {arguments[0]} in a process of its own failed: {reason[0]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_bytes() -> int:
    """Returns the largest resident memory of this program so far.

    On Linux `ru_maxrss` would not do: a new program inherits that of the process that started it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        if found:
            return 1024 * int(found[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def report(load: Callable[[], Runner], prompt: int, count: int) -> None:
    """Loads, reads a prompt, writes, and prints seconds to load and peak memory as JSON."""
    began = time.perf_counter()
    runner = load()
    loading = time.perf_counter() - began
    tokens = np.random.default_rng(1).integers(3, runner.vocabulary, prompt).tolist()
    runner.prefill_seconds(tokens)
    runner.decode_seconds(tokens[:SHORT], count)
    print(json.dumps({"load_seconds": loading, "peak_memory_bytes": peak_bytes()}))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    try:
        report(lambda: NativeRunner(sys.argv[1], activation_bits=int(sys.argv[4])), int(sys.argv[2]), int(sys.argv[3]))
    except MediantError as problem:
        sys.exit(str(problem))
