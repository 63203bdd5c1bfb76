"""Products with cold matrices: ours, and those of the ggml in llama-cpp-python, by turns in one process.

    python benchmarks/kernels/gemv.py [--rows 11008] [--columns 4096] [--threads 1 2] [--prefill 128] [--json FILE]
        [--ggml FOLDER]

Every contender multiplies several copies of a matrix, together larger than the caches, one after another; rounds take
all contenders in turn, and the median of the rounds is reported for one matrix. The memory's bandwidth is read in the
same rounds. Q4_0 and the others are tried as they lie and repacked, and the faster counts. Bars (issue 4): 1.9, 2.2 and
2.4 times ggml at 4, 3 and 2 bits, and 0.8 of the bandwidth.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ggml_products import Ggml, GgmlProducts

from mediant.kernels import native
from mediant.kernels.bfloat16 import from_float32
from mediant.kernels.packed_matrix import PackedMatrix, PackedRun, WholeLevels
from mediant.kernels.read_memory import read_memory
from mediant.kernels.scale_codes import ScaleForm
from mediant.kernels.tiles import WIDTHS, scale_code_bytes, tile_bytes
from mediant.methods.grids.gaussian_int import GaussianInt
from mediant.values import RowSpan

RIVALS = {4: ("Q4_0", "Q4_K"), 3: ("Q3_K",), 2: ("Q2_K",)}
BARS = {4: 1.9, 3: 2.2, 2: 2.4}
LEAST_BANDWIDTH = 0.8
READ_BYTES = 256 << 20

Contenders = dict[str, tuple[int, Callable[[int], None]]]


def packed(bits: int, shape: tuple[int, int], seed: int, storage: str = "tiles") -> tuple[PackedMatrix, int]:
    """A random matrix in the kernel layout, and its bytes."""
    generator, (rows, columns), runs = np.random.default_rng(seed), shape, [RowSpan(shape[0], bits)]
    form = ScaleForm(3, False, 4)
    # 64 bytes aligned, as in a checkpoint.
    room = generator.integers(0, 256, tile_bytes(runs, columns) + 64, np.uint8)
    tiles = room[-room.ctypes.data % 64 :][: tile_bytes(runs, columns)]
    codes = generator.integers(0, 256, scale_code_bytes(runs, columns // 32, form.bits), np.uint8)
    scales = from_float32(generator.uniform(0.5, 1, rows).astype(np.float32))
    levels = WholeLevels.of(GaussianInt().levels(bits).astype(np.float32), bits)
    run = PackedRun(rows, WIDTHS[storage][bits], tiles, levels)
    return PackedMatrix(shape, (run,), scales, codes, form), tiles.size + codes.size + scales.nbytes


def ours(bits: int, shape: tuple[int, int], copies: int, x: np.ndarray, precise: bool = False, storage: str = "tiles"):
    assert native is not None
    made = [packed(bits, shape, seed, storage) for seed in range(copies)]
    handles = [matrix.handle for matrix, _ in made]
    y = np.empty((len(x), shape[0]), np.float32)
    return made[0][1], lambda threads: native.multiply_each(handles, x, precise, threads, y), made[0][0], y


def check(bits: int) -> None:
    """Sees that what is timed computes a product."""
    x = np.random.default_rng(0).standard_normal((1, 256)).astype(np.float32)
    _, run, matrix, y = ours(bits, (64, 256), 1, x)
    run(1)
    np.testing.assert_allclose(y, matrix.multiply_reference(x), rtol=1e-3, atol=1e-3 * np.abs(y).max())


def contenders(shape: tuple[int, int], copies: int, ggml: Ggml | None) -> Contenders:
    x = np.random.default_rng(0).standard_normal((1, shape[1])).astype(np.float32)
    found: Contenders = {}
    for bits in RIVALS:
        check(bits)
        found[f"{bits} bits"] = ours(bits, shape, copies, x)[:2]
    found["4 bits, nested"] = ours(4, shape, copies, x, storage="nested")[:2]
    found["4 bits, precise"] = ours(4, shape, copies, x, precise=True)[:2]
    found["3 bits, precise"] = ours(3, shape, copies, x, precise=True)[:2]
    for name, buffer in ({} if ggml is None else ggml.buffer_types()).items():
        for kind in {kind for kinds in RIVALS.values() for kind in kinds}:
            with contextlib.suppress(MemoryError):
                products = GgmlProducts(ggml, kind, buffer, shape, copies, x)
                found[f"{kind} in {name}"] = (products.bytes, products.run)
    return found


def rounds_of(found: Contenders, copies: int, threads: int, rounds: int) -> dict[str, float]:
    """Median microseconds of one matrix, by contender; of the reading, gigabytes per second."""
    words = np.ones(READ_BYTES // 8, np.uint64)
    times: dict[str, list[float]] = {name: [] for name in found}
    rates = []
    for turn in range(rounds + 1):
        for name, (_, run) in found.items():
            start = time.perf_counter()
            run(threads)
            if turn:
                times[name].append((time.perf_counter() - start) / copies * 1e6)
        start = time.perf_counter()
        read_memory(words, threads)
        rates.append(READ_BYTES / (time.perf_counter() - start) / 1e9)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return medians | {"bandwidth": statistics.median(rates)}


def compared(found: Contenders, medians: dict[str, float], threads: int) -> list[dict[str, Any]]:
    rows = []
    for bits, kinds in RIVALS.items():
        rivals = {n: t for n, t in medians.items() if n.split(" in ")[0] in kinds}
        name, best = min(rivals.items(), key=lambda item: item[1], default=("none", float("nan")))
        size, taken = found[f"{bits} bits"][0], medians[f"{bits} bits"]
        rows.append({
            "threads": threads, "bits": bits, "microseconds": taken, "rival": name, "rival_microseconds": best,
            "ratio": best / taken, "bar": BARS[bits], "gigabytes_per_second": size / taken / 1e3,
            "bandwidth": medians["bandwidth"], "bandwidth_fraction": size / taken / 1e3 / medians["bandwidth"],
        })  # fmt: skip
    return rows


def prefill(shape: tuple[int, int], count: int, threads: int, ggml: Ggml | None, rounds: int) -> dict[str, float]:
    """GFLOP/s of products with many vectors at 4 bits."""
    x = np.random.default_rng(0).standard_normal((count, shape[1])).astype(np.float32)
    found: Contenders = {"4 bits": ours(4, shape, 1, x)[:2], "3 bits": ours(3, shape, 1, x)[:2]}
    for name, buffer in ({} if ggml is None else ggml.buffer_types()).items():
        for kind in RIVALS[4]:
            with contextlib.suppress(MemoryError):
                products = GgmlProducts(ggml, kind, buffer, shape, 1, x)
                found[f"{kind} in {name}"] = (products.bytes, products.run)
    medians = rounds_of(found, 1, threads, rounds)
    return {n: 2 * shape[0] * shape[1] * count / t / 1e3 for n, t in medians.items() if n != "bandwidth"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=11008)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--copies", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prefill", type=int, default=128)
    parser.add_argument("--ggml", type=Path, help="folder of the ggml libraries; by default llama_cpp's")
    parser.add_argument("--alone", action="store_true", help="without ggml")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if native is None:
        raise SystemExit("The native kernels were not built.")
    shape, ggml = (given.rows, given.columns), None if given.alone else Ggml(given.ggml)
    found = contenders(shape, given.copies, ggml)
    report: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "instruction_set": native.instruction_set(), "shape": shape, "gemv": [], "medians": {}, "prefill": {},
    }  # fmt: skip
    for threads in given.threads:
        medians = rounds_of(found, given.copies, threads, given.rounds)
        report["medians"][threads] = medians
        report["gemv"] += compared(found, medians, threads)
    for row in report["gemv"]:
        print(
            f"{row['threads']} threads, {row['bits']} bits: {row['microseconds']:.0f} us,"
            f" {row['ratio']:.2f} times {row['rival']} ({row['rival_microseconds']:.0f} us; bar {row['bar']}),"
            f" {row['gigabytes_per_second']:.1f} of {row['bandwidth']:.1f} GB/s: {row['bandwidth_fraction']:.2f}"
        )
    for threads, medians in report["medians"].items():
        print(f"{threads} threads:", ", ".join(f"{name} {value:.0f}" for name, value in medians.items()))
    if given.prefill:
        for threads in given.threads:
            report["prefill"][threads] = rates = prefill(shape, given.prefill, threads, ggml, 2)
            print(f"{threads} threads, {given.prefill} vectors, GFLOP/s:", {n: round(r) for n, r in rates.items()})
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
