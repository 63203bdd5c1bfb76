"""Random arguments for packed matrices and their reader: refused with a sentence, or equal to the reference.

    python tests/hostile/fuzz_kernels.py [--seconds 600] [--seed 0]

Every case makes a matrix of random runs, storage, scales and group, often with one part cut, stretched or replaced by
noise, and multiplies by vectors that may hold anything. Nothing but ValueError may come of it.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from mediant.kernels import native
from mediant.kernels.packed_matrix import LAYOUTS, PackedMatrix, PackedRun, WholeLevels
from mediant.kernels.scale_codes import ScaleForm
from mediant.kernels.tiles import STORAGES, WIDTHS, scale_code_bytes, tile_bytes
from mediant.methods.grids.gaussian_int import GaussianInt
from mediant.methods.grids.vq2d import Vq2d
from mediant.values import RowSpan

VALUES = np.float32([0, -0.0, 1, -1, 1e-45, 1e-38, 3e38, np.inf, -np.inf, np.nan])


def case(generator: np.random.Generator) -> str:
    """Tries one case; says what became of it."""
    columns = int(generator.integers(1, 300))
    runs = [
        RowSpan(int(generator.integers(1, 40)), int(generator.integers(1, 9))) for _ in range(generator.integers(1, 4))
    ]
    storage, group = str(generator.choice(STORAGES)), 32 * int(generator.integers(1, 4))
    signed = bool(generator.integers(2))
    form = ScaleForm(int(generator.integers(2 + signed, 9)), signed, int(generator.integers(1, 9)))
    rows, groups = sum(run.rows for run in runs), -(-columns // group)

    def noise(size: int) -> np.ndarray:
        # One part in eight is too short or too long.
        size += int(generator.integers(-33, 34)) if generator.integers(8) == 0 else 0
        return generator.integers(0, 256, max(0, size)).astype(np.uint8)

    made = []
    for run in runs:
        grid = Vq2d() if run.bits > 1 and generator.integers(2) else GaussianInt()
        levels = WholeLevels.of(grid.levels(run.bits).reshape(-1).astype(np.float32), run.bits)
        widths = WIDTHS[storage][run.bits] if generator.integers(16) else LAYOUTS[generator.integers(len(LAYOUTS))]
        if generator.integers(16) == 0:
            levels = WholeLevels(noise(1 << run.bits), 1.5, 1.0)
        made.append(PackedRun(run.rows, widths, noise(tile_bytes([run], columns)), levels))
    # Exponents of row scales far from the largest, so that sums stay finite where vectors are.
    scales = generator.integers(0x3E00, 0x4100, rows).astype(np.uint16)
    try:
        matrix = PackedMatrix(
            (rows, columns), tuple(made), scales, noise(scale_code_bytes(runs, groups, form.bits)), form, group,
            int(generator.integers(1 << 62)) if generator.integers(2) else None,
        )  # fmt: skip
    except ValueError:
        return "refused"
    x = generator.standard_normal((int(generator.integers(0, 5)), columns)).astype(np.float32)
    precise = bool(generator.integers(2))
    if strange := generator.integers(4) == 0:
        x[generator.random(x.shape) < 0.1] = generator.choice(VALUES)
    found = matrix.multiply(x, precise)
    matrix.row(int(generator.integers(rows)))
    if not strange and all(r.widths == WIDTHS[storage][b.bits] for r, b in zip(made, runs, strict=True)):
        expected = matrix.multiply_reference(x, precise)
        size = np.abs(expected).max(initial=0) + np.abs(x).max(initial=0)
        assert np.all(np.abs(found - expected) <= 1e-3 * columns * 128 * size), "differs from the reference"
    return "multiplied"


def fuzz(seconds: float, seed: int) -> dict[str, int]:
    """Tries cases for so long, over all instruction sets that there are."""
    counts: dict[str, int] = {}
    names = [] if native is None else native.instruction_sets()
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        if native is not None:
            native.force_instruction_set(names[number % len(names)])
        try:
            outcome = case(np.random.default_rng([seed, number]))
        except Exception:
            print(f"seed {seed}, case {number}")
            raise
        counts[outcome] = counts.get(outcome, 0) + 1
        number += 1
    if native is not None:
        native.force_instruction_set(names[0])
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(fuzz(given.seconds, given.seed))


if __name__ == "__main__":
    main()
