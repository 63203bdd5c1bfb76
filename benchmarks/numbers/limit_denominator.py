"""mediant.kernels.limit_denominator against `[Fraction(v).limit_denominator(N) for v in x]`: every value, and time.

    python benchmarks/numbers/limit_denominator.py [--count 1000000] [--rounds 3] [--json FILE]

Every fraction of every kind of input is compared. `Fraction` takes a list of Python floats in pieces of 100000; after
each piece the kernel takes the whole array of doubles, so that both meet the same neighbours. `ratio` is that of
elapsed times, the sum of the pieces' best of all rounds over the kernel's best; `per core` is that of processor times,
which a busy machine disturbs less and which gives no credit for threads.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediant.kernels import native, threads
from mediant.kernels.limit_denominator import limit_denominator

Doubles = NDArray[np.float64]
Maker = Callable[[np.random.Generator, int], Doubles]

PIECE = 100_000
BOUNDS = (10, 1000, 10**6)


def weights(generator: np.random.Generator, count: int) -> Doubles:
    """Like a layer's weights, as float32."""
    return (generator.standard_normal(count) * 0.05).astype(np.float32).astype(np.float64)


def gaussian(generator: np.random.Generator, count: int) -> Doubles:
    """53 significant bits."""
    return generator.standard_normal(count)


def magnitudes(generator: np.random.Generator, count: int) -> Doubles:
    """From 1e-30 to 1e18, both signs."""
    return generator.standard_normal(count) * 10.0 ** generator.uniform(-30, 18, count)


def near_golden(generator: np.random.Generator, count: int) -> Doubles:
    """The longest expansions there are: all partial quotients 1."""
    return (1 + math.sqrt(5)) / 2 + generator.integers(-5, 5, count) + generator.integers(0, 1000, count) * 2.0**-50


def near_fractions(generator: np.random.Generator, count: int) -> Doubles:
    """Doubles beside p/q with q <= 2000, and those nearest to midpoints of such."""
    p, q = generator.integers(-4000, 4000, (2, count)), generator.integers(1, 2000, (2, count))
    middle = (p[0] / q[0] + p[1] / q[1]) / 2
    return np.where(np.arange(count) % 2, np.nextafter(p[0] / q[0], generator.choice([-9e9, 9e9], count)), middle)


def ties(generator: np.random.Generator, count: int) -> Doubles:
    """n ± 2^-(k+1), midway between neighbours of F_N for N = 2^k, and halves."""
    sign = generator.choice([-1, 1], count)
    return generator.integers(-1000, 1000, count) + sign * 2.0 ** -generator.integers(1, 41, count)


def near_integers(generator: np.random.Generator, count: int) -> Doubles:
    """An integer and a little."""
    return generator.integers(-(10**6), 10**6, count) + generator.choice([-1, 1], count) * 10.0 ** generator.uniform(
        -12, -2, count
    )


def subnormal(generator: np.random.Generator, count: int) -> Doubles:
    """Subnormals, and zeros of both signs."""
    return generator.integers(0, 2**52, count, np.uint64).view(np.float64) * generator.choice([-1.0, 0.0, 1.0], count)


def any_pattern(generator: np.random.Generator, count: int) -> Doubles:
    """Any finite bit pattern; half of these are beyond 2^63 and make both sides build Python integers."""
    patterns = generator.integers(0, 2**64, 2 * count, np.uint64).view(np.float64)
    return patterns[np.isfinite(patterns)][:count]


KINDS: dict[str, Maker] = {
    f.__name__: f
    for f in (
        weights, gaussian, magnitudes, near_golden, near_fractions, ties, near_integers, subnormal, any_pattern,
    )
}  # fmt: skip


class Timed:
    """The result of a call, with its elapsed and its processor seconds, of all threads together."""

    def __init__(self, work: Callable[[], Any]) -> None:
        gc.collect()
        elapsed, processor = time.perf_counter(), time.process_time()
        self.result = work()
        self.seconds = np.array([time.perf_counter() - elapsed, time.process_time() - processor])


def mismatches(best: list[Fraction], p: NDArray[Any], q: NDArray[Any]) -> int:
    rows = zip(best, p.tolist(), q.tolist(), strict=True)
    return sum((f.numerator, f.denominator) != (a, b) for f, a, b in rows)


def measure(x: Doubles, bound: int, rounds: int) -> dict[str, Any]:
    """Seconds of both sides, their ratios, and the number of differing fractions."""
    ours = [Timed(lambda: limit_denominator(x, bound))]
    p, q = ours[0].result
    python, wrong = np.zeros(2), 0
    for first in range(0, len(x), PIECE):
        piece = slice(first, first + PIECE)
        values = x[piece].tolist()
        theirs = []
        for _ in range(rounds):
            theirs.append(Timed(lambda v=values: [Fraction(f).limit_denominator(bound) for f in v]))
            ours.append(Timed(lambda: limit_denominator(x, bound)))
        python += np.min([t.seconds for t in theirs], axis=0)
        wrong += mismatches(theirs[0].result, p[piece], q[piece])
    kernel = np.min([t.seconds for t in ours], axis=0)
    names = ("fraction_seconds", "kernel_seconds", "ratio", "ratio_per_core")
    figures = (python[0], kernel[0], *(python / kernel))
    return {**dict(zip(names, map(float, figures), strict=True)), "mismatches": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10**6)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--bounds", nargs="+", type=int, default=list(BOUNDS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if native is None:
        parser.exit(1, "The native kernels were not built.\n")
    rows = []
    print(f"{threads()} threads, {arguments.count} values each; ns per value")
    print(f"{'kind':15} {'N':>8} {'Fraction':>9} {'kernel':>7} {'ratio':>6} {'per core':>8} {'mismatches':>10}")
    for kind in arguments.kinds:
        x = KINDS[kind](np.random.default_rng(arguments.seed), arguments.count)
        for bound in arguments.bounds:
            row = {"kind": kind, "bound": bound, "count": len(x), **measure(x, bound, arguments.rounds)}
            rows.append(row)
            theirs, ours = (row[k] / len(x) * 1e9 for k in ("fraction_seconds", "kernel_seconds"))
            ratios = f"{row['ratio']:6.0f} {row['ratio_per_core']:8.0f}"
            print(f"{kind:15} {bound:>8} {theirs:9.0f} {ours:7.1f} {ratios} {row['mismatches']:>10}", flush=True)
    if arguments.json:
        about = {"threads": threads(), "processors": os.cpu_count(), "seed": arguments.seed, "rounds": arguments.rounds}
        arguments.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
