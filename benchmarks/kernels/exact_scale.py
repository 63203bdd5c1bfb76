"""The exact scale against the other scales, by squared error on real weights, and its time.

    python benchmarks/kernels/exact_scale.py MODEL.safetensors [--bits 2 3 4] [--group 64] [--rows 512] [--json FILE]

The error is Σ (w - w^)^2 / Σ w^2 over evenly strided rows of every matrix of the file, cut into groups of neighbouring
columns, with nearest codes and without sensitivities; every scale is kept as float32. Gaussian and Laplacian weights
follow for comparison. The time is that of scales and codes of the same groups on a signed uniform grid, the best of
the rounds, and what it makes for 134 million weights: by the clock, and by processor time over threads, which is what
the clock would show on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from mediant.discovery import make
from mediant.kernels import native, threads
from mediant.kernels.nearest_code import nearest_code

Groups = NDArray[np.float32]

SCALES = {
    "absmax": {"name": "absmax"},
    "absmax outer": {"name": "absmax", "end": "outer"},
    "half quadratic": {"name": "half_quadratic"},
    "kl": {"name": "kl"},
    "exact": {"name": "exact"},
}
GRIDS = {"signed": {"name": "uniform"}, "symmetric": {"name": "uniform", "kind": "symmetric"}}
SYNTHETIC_GROUPS = 1 << 14
TARGET_WEIGHTS = 134e6


def real_groups(path: Path, size: int, rows: int) -> Groups:
    """[groups, size] from every matrix of a safetensors file whose columns divide by the group size."""
    parts = []
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118, safe_open is no mapping
            matrix = file.get_tensor(name)
            if matrix.ndim == 2 and matrix.is_floating_point() and matrix.shape[1] % size == 0:
                stride = -(-len(matrix) // rows)
                parts.append(matrix[::stride].float().numpy().reshape(-1, size))
    if not parts:
        raise SystemExit(f"{path} has no matrix whose columns divide by {size}.")
    return np.concatenate(parts)


def kinds(path: Path, size: int, rows: int) -> Iterator[tuple[str, Groups]]:
    yield "real", real_groups(path, size, rows)
    generator = np.random.default_rng(0)
    yield "gaussian", generator.standard_normal((SYNTHETIC_GROUPS, size), np.float32)
    yield "laplacian", generator.laplace(size=(SYNTHETIC_GROUPS, size)).astype(np.float32)


def relative_error(w: Groups, scale: dict[str, Any], levels: NDArray[np.float64]) -> float:
    fit = make("scales", scale).fit(w, None, levels, False)
    decoded = fit.scale.astype(np.float64)[:, None] * levels[nearest_code(w, *fit, levels)]
    return float(np.square(w - decoded).sum() / np.square(w, dtype=np.float64).sum())


def seconds(w: Groups, levels: NDArray[np.float64], rounds: int) -> tuple[float, float]:
    """Wall and processor time of the exact scales and their codes."""
    best = (np.inf, np.inf)
    for _ in range(rounds):
        wall, processor = time.perf_counter(), time.process_time()
        nearest_code(w, *make("scales", {"name": "exact"}).fit(w, None, levels, False), levels)
        best = min(best, (time.perf_counter() - wall, time.process_time() - processor))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--bits", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--rows", type=int, default=512, help="at most so many rows of each matrix")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    errors, times = [], []
    print(f"{'weights':10} {'grid':10} bits " + " ".join(f"{s:>14}" for s in SCALES) + "   exact against absmax")
    for kind, w in kinds(arguments.model, arguments.group, arguments.rows):
        for bits in arguments.bits:
            for grid, spec in GRIDS.items():
                levels = make("grids", spec).levels(bits)
                row = {name: relative_error(w, scale, levels) for name, scale in SCALES.items()}
                gains = {name: row["exact"] / row[name] - 1 for name in ("absmax", "absmax outer")}
                errors.append({"weights": kind, "groups": len(w), "grid": grid, "bits": bits, **row})
                print(f"{kind:10} {grid:10} {bits:4} " + " ".join(f"{e:14.5f}" for e in row.values()), end="   ")
                print("  ".join(f"{gain:+.1%}" for gain in gains.values()), flush=True)
            wall, processor = seconds(w, make("grids", GRIDS["signed"]).levels(bits), arguments.rounds)
            times.append({"weights": kind, "bits": bits, "count": w.size, "wall": wall, "processor": processor})
    print(
        f"\n{threads()} threads, native kernels {'on' if native else 'off'}; nanoseconds a weight, wall and processor"
    )
    for row in times:
        wall, processor = (row[k] / row["count"] * 1e9 for k in ("wall", "processor"))
        clock, idle = (x * TARGET_WEIGHTS / 1e9 for x in (wall, processor / threads()))
        print(f"{row['weights']:10} {row['bits']} bits {wall:8.1f} {processor:8.1f}", end="   ")
        print(f"134M weights: {clock:.1f} s, idle {idle:.1f} s")
    if arguments.json:
        about = {"model": arguments.model.name, "group": arguments.group, "threads": threads()}
        about |= {"processors": os.cpu_count(), "native": native is not None}
        arguments.json.write_text(json.dumps({**about, "errors": errors, "times": times}, indent=1) + "\n")


if __name__ == "__main__":
    main()
