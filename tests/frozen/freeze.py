"""Freezes a checkpoint for each stored form: `python -m tests.frozen.freeze` writes those that are not there yet.

What is there is never written again: it stands for all files that people have. Each is a folder of two small files, and
`weights.json` has the SHA-256 of every tensor's weights, float32 in the tensor's order, as they were read that day.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from tests.checkpoint.conftest import PATTERNS, random_encoding

from mediant.checkpoint.manifest import Calibration
from mediant.checkpoint.reader import open_checkpoint
from mediant.checkpoint.writer import write
from mediant.forms import Form
from mediant.forms.cast.form import Cast
from mediant.forms.compand.form import Compand
from mediant.forms.entropy_coded.form import EntropyCoded
from mediant.forms.factors.form import Factors
from mediant.forms.quantize.form import Quantize
from mediant.forms.sparse.form import Sparse
from mediant.planning.plan import Plan
from mediant.values import Model, RowSpan, TensorInfo, Truncation

HERE = Path(__file__).parent
HASHES = HERE / "weights.json"


def quantized(grid: str, runs: list[tuple[int, int]], group: int, scale_bits: int, **fields: object) -> Quantize:
    scale, rounding = {"name": "exact"}, {"name": "nearest"}
    plan = Quantize(grid={"name": grid}, scale=scale, rounding=rounding, runs=tuple(itertools.starmap(RowSpan, runs)),
        group=group, scale_bits=scale_bits,
    )  # fmt: skip
    return replace(plan, **fields)  # type: ignore[arg-type]


ZERO_POINT = replace(quantized("uniform", [(5, 3), (7, 2)], 8, 16), grid={"name": "uniform", "kind": "zero_point"})
TILES = quantized("gaussian_int", [(9, 2), (4, 5), (3, 3)], 32, 3, scale_signed=False, scale_steps=4, storage="tiles")
ROTATION = {"name": "rotation", "seed": 12345}
# The plans of each checkpoint; matrices are [16, 24], or [12, 10] for the plans of 12 rows, in turn out_in and in_out.
PLANS: Mapping[str, tuple[Form, ...]] = {
    "cast": tuple(Cast(dtype) for dtype in ("float32", "float16", "bfloat16")),
    "quantize-rows": (
        quantized("uniform", [(3, 8), (4, 4), (9, 2)], 16, 6),
        ZERO_POINT,
        quantized("gaussian", [(10, 3), (6, 2)], 5, 4, basis=ROTATION),
    ),
    "quantize-tiles": (TILES, replace(TILES, basis=ROTATION)),
    "quantize-nested": (
        replace(quantized("nested", [(7, 4), (9, 3)], 32, 5), storage="nested",
                truncations=(Truncation(3, 2), Truncation(2, 5))),
    ),
    "quantize-pairs": (
        replace(TILES, grid={"name": "vq2d"}, basis=ROTATION),
        quantized("vq2d", [(5, 2), (7, 4)], 10, 16),
    ),
    "quantize-columns": (
        replace(ZERO_POINT, outliers=3),
        quantized("uniform", [(16, 4)], 8, 6, basis={"name": "columns", "by": {"name": "awq"}}),
        quantized("uniform", [(16, 3)], 8, 6, outliers=1, basis={"name": "columns", "by": {"name": "smoothquant"}}),
    ),
    "entropy-coded": (EntropyCoded(step=0.25), EntropyCoded(step=0.5, damping=0.125, price=0.0)),
    "companded": (Compand(multiplier=0.5, rate=3.0, cluster=5),),
    "sparse": tuple(
        Sparse(plan, pattern, {"name": "magnitude"})
        for pattern in PATTERNS.values()
        for plan in (Cast("float16"), quantized("gaussian_int", [(9, 2), (7, 4)], 4, 5))
    ),
    "factors": (
        Factors(low_rank={"name": "truncated_svd"}, rank=3, left=Cast("float16"),
                   right=Cast("bfloat16")),
        Factors(low_rank={"name": "residual", "rounds": 2}, rank=4,
                   base=quantized("gaussian", [(16, 2)], 8, 4), left=quantized("gaussian_int", [(16, 3)], 4, 3),
                   right=quantized("uniform", [(4, 4)], 8, 16, basis=ROTATION)),
    ),
}  # fmt: skip


def freeze(name: str, seed: int) -> None:
    """Writes one checkpoint with any weights."""
    generator = np.random.default_rng(seed)
    planned = {}
    for i, plan in enumerate(PLANS[name]):
        rows = sum(run.rows for run in plan.runs) or 16
        rows, columns = (12, 10) if rows == 12 else (16, 24)
        layout = "in_out" if i % 2 else "out_in"
        shape = (columns, rows) if i % 2 else (rows, columns)
        planned[TensorInfo(f"w{i}", shape, "float32", "linear", layout, f"layers.{i}", i)] = plan
    encodings = [random_encoding(info, plan, generator) for info, plan in planned.items()]
    model = Model(HERE, name, "FrozenForCausalLM", {}, tuple(planned), "5a" * 32)
    plan = Plan(model.fingerprint, name, seed, {info.name: p for info, p in planned.items()}, 9999, 0.125)
    sides = {e.info.name: e.side for e in encodings if e.plan.measured}
    write(HERE / name, model, plan, Calibration("frozen.txt", 640, "7e" * 32), encodings, {}, sides)


def weight_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the weights of every tensor as they are read."""
    return {
        name: hashlib.sha256(np.ascontiguousarray(weight, "<f4").tobytes()).hexdigest()
        for name, weight in open_checkpoint(folder).state()
    }


if __name__ == "__main__":
    found = json.loads(HASHES.read_text(encoding="utf-8")) if HASHES.exists() else {}
    for number, missing in enumerate(PLANS):
        if not (HERE / missing).exists():
            freeze(missing, number)
            found[missing] = weight_hashes(HERE / missing)
    HASHES.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
