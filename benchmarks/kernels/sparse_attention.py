"""Attention patterns against dense attention: time forward and backward, and memory as texts get longer.

    python benchmarks/kernels/sparse_attention.py --json benchmarks/results/sparse_attention.json

Three heads of 64 that share a head of keys, which is a third of a layer of SmolLM2-135M. Dense is
`torch.nn.functional.scaled_dot_product_attention` (causal, so half of the pairs) and eager attention as transformers
has it (all pairs, then a mask; one head after the other, or it would not fit). Rounds are interleaved and the best of
each counts: by the clock, and by processor time over threads, which is what the clock would show on an idle machine.
Pairs are those that a pattern allows; a pattern that computed no others at dense speed would be that much faster.

Memory is the rise of the peak of the process (ru_maxrss) over that before, for a forward and a backward pass in a
process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mediant.discovery import make
from mediant.kernels import native

HEADS, KEY_HEADS, SIZE = 3, 1, 64
PATTERNS = {
    "sliding window 512, 4 sinks": {"name": "sliding_window", "window": 512, "sinks": 4},
    "local, blocks of 256 and the one before": {"name": "local", "block": 256, "before": 1},
    "8 fixed blocks of 64": {"name": "block_sparse", "block": 64, "near": 6, "first": 1},
    "every 16th block of 64": {"name": "block_sparse", "block": 64, "near": 3, "first": 0, "stride": 16},
    "3 chosen blocks of 128": {"name": "block_sparse", "block": 128, "near": 0, "first": 0, "top": 3},
    "6 chosen blocks of 64": {"name": "block_sparse", "block": 64, "near": 0, "first": 1, "top": 6},
}
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def eager(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bias = torch.full((q.shape[2], k.shape[2]), torch.finfo(q.dtype).min).triu(1)
    group = q.shape[1] // k.shape[1]
    heads = []
    for h in range(q.shape[1]):
        scores = q[:, h] @ k[:, h // group].mT * q.shape[-1] ** -0.5
        heads.append((scores + bias).softmax(-1) @ v[:, h // group])
    return torch.stack(heads, 1)


def inputs(tokens: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(HEADS, tokens), (KEY_HEADS, tokens), (KEY_HEADS, tokens), (HEADS, tokens)]
    return [torch.randn(1, h, n, SIZE, generator=generator) for h, n in shapes]


def methods() -> dict[str, Attend]:
    return {"dense, fused": sdpa, "dense, eager": eager} | {n: make("attention", s).attend for n, s in PATTERNS.items()}


def once(attend: Attend, tokens: int, backward: bool = True) -> dict[str, tuple[float, float]]:
    """Wall and processor seconds of each pass."""
    q, k, v, gradient = inputs(tokens)
    for x in (q, k, v):
        x.requires_grad_(backward)
    marks = [(time.perf_counter(), time.process_time())]
    out = attend(q, k, v)
    marks.append((time.perf_counter(), time.process_time()))
    if backward:
        out.backward(gradient)
        marks.append((time.perf_counter(), time.process_time()))
    spans = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(marks)]
    return dict(zip(("forward", "backward"), spans, strict=False))


def times(tokens: int, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    best: dict[str, dict[str, dict[str, float]]] = {}
    for r in range(rounds):
        for name, attend in methods().items():
            if name == "dense, eager" and r:
                continue
            for kind, (wall, processor) in once(attend, tokens).items():
                least = best.setdefault(name, {}).setdefault(kind, {"wall": math.inf, "processor": math.inf})
                least["wall"], least["processor"] = min(least["wall"], wall), min(least["processor"], processor)
    return best


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory(name: str, tokens: int) -> int:
    """Bytes by which the peak of a new process rises."""
    command = [sys.executable, __file__, "--peak", name, "--tokens", str(tokens)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def show_times(found: dict[str, dict[str, dict[str, float]]], tokens: int) -> None:
    threads = torch.get_num_threads()
    dense = found["dense, fused"]
    print(f"{tokens} tokens, {threads} threads; ms by the clock (processor over threads), times as fast as fused dense")
    for name, kinds in found.items():
        cells = []
        for kind, t in kinds.items():
            ratio = dense[kind]["processor"] / t["processor"]
            clock = dense[kind]["wall"] / t["wall"]
            cells.append(
                f"{kind} {t['wall'] * 1e3:6.0f} ({t['processor'] / threads * 1e3:6.0f}) {clock:5.1f} ({ratio:5.1f})"
            )
        pairs = ""
        if name in PATTERNS:
            pairs = f"pairs 1/{(tokens + 1) / 2 / make('attention', PATTERNS[name]).keys_per_query(tokens):.1f}"
        print(f"{name:40} {'  '.join(cells)}  {pairs}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip", choices=["times", "memory"])
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="where to write the figures; what is skipped stays as it is there")
    arguments = parser.parse_args()
    if arguments.peak:
        once(methods()[arguments.peak], 256)
        before = peak()
        once(methods()[arguments.peak], arguments.tokens)
        print(peak() - before)
        return
    known = arguments.json.exists() if arguments.json else False
    data = json.loads(arguments.json.read_text()) if known else {}
    if arguments.skip != "times":
        found = times(arguments.tokens, arguments.rounds)
        show_times(found, arguments.tokens)
        data |= {"tokens": arguments.tokens, "threads": torch.get_num_threads(), "native": native is not None}
        data |= {"torch": torch.__version__, "load": os.getloadavg()[0], "times": found}
    if arguments.skip != "memory":
        rises: dict[str, dict[int, int]] = {}
        for name in ("dense, fused", "dense, eager", *PATTERNS):
            lengths = [2048, 4096, 8192, *((16384, 32768) if name in PATTERNS else ())]
            rises[name] = {n: memory(name, n) for n in lengths}
            print(f"{name:40} " + "  ".join(f"{n}: {b / 1e6:.0f} MB" for n, b in rises[name].items()), flush=True)
        data["memory"] = rises
    if arguments.json:
        arguments.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
