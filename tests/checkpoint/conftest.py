"""A small checkpoint with every layout, grid form, width of scales and cast, made once for a test run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from mediant import discovery
from mediant.checkpoint.manifest import Calibration
from mediant.checkpoint.writer import write
from mediant.kernels.bfloat16 import from_float32, to_float32
from mediant.kernels.bit_planes import pack
from mediant.kernels.coded_matrix import Codebook, CodedMatrix
from mediant.kernels.part_shapes import Form, factor_infos, form_of, grid_form
from mediant.kernels.scale_codes import ScaleForm, encode_scales
from mediant.kernels.tiles import pack_scale_codes, pack_tiles
from mediant.plans import Drop, Plan, Run, TensorPlan
from mediant.values import Certificate, Encoding, Model, TensorInfo


class SampleGrid(NamedTuple):
    """A grid for `sample_checkpoint`, of each form that a checkpoint knows."""

    form: str
    zero_point: bool

    def levels(self, bits: int, sample: object = None, weights: object = None) -> np.ndarray:
        """Half steps around 0, whole steps from 0, or a table with three quarters of the codes."""
        count = 1 << bits
        if self.form == "sample_table":
            return np.arange(max(2, 3 * count // 4)) ** 1.5 - 1
        return np.arange(count) - (0 if self.zero_point else (count - 1) / 2)


class Sample(NamedTuple):
    """What `sample_checkpoint` has written, and where."""

    folder: Path
    model: Model
    plan: Plan
    calibration: Calibration
    encodings: tuple[Encoding, ...]
    companions: dict[str, bytes]
    forms: dict[str, Form]


@pytest.fixture(scope="session")
def sample_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    """The sample, with the stub grids in place as long as the tests run. Not to be changed."""
    real = discovery.make

    def make(kind: str, spec: discovery.Spec) -> object:
        name = spec.get("name")
        stub = kind == "grids" and name in ("sample_affine", "sample_zero_point", "sample_table")
        return SampleGrid(str(name), name == "sample_zero_point") if stub else real(kind, spec)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discovery, "make", make)
        yield write_sample(tmp_path_factory.mktemp("sample") / "checkpoint")


def write_sample(folder: Path) -> Sample:
    """Writes the checkpoint of `sample_checkpoint`."""
    generator = np.random.default_rng(5)

    def quantized(form: str, runs: list[tuple[int, int]], group: int, scale_bits: int) -> TensorPlan:
        name = {"name": f"sample_{form}"}
        return TensorPlan(
            "quantize", grid=name, scale=name, rounding=name, runs=tuple(itertools.starmap(Run, runs)),
            group=group, scale_bits=scale_bits,
        )  # fmt: skip

    planned = [
        (TensorInfo("embed.weight", (37, 24), "float32", "embedding", "out_in", "embed", aliases=("head.weight",)),
         quantized("affine", [(5, 8), (20, 3), (12, 1)], 16, 6)),
        (TensorInfo("layers.0.in.weight", (24, 10), "float32", "linear", "in_out", "layers.0.in", 0),
         quantized("zero_point", [(3, 4), (7, 2)], 10, 16)),
        (TensorInfo("layers.0.in.bias", (10,), "float32", "bias", "none", "layers.0.in", 0),
         TensorPlan("cast", "bfloat16", bias_correction=True)),
        (TensorInfo("layers.1.up", (3, 6, 5), "bfloat16", "expert", "experts_in_out", "layers.1", 1),
         quantized("table", [(7, 3), (8, 2)], 4, 3)),
        (TensorInfo("layers.1.down", (2, 4, 9), "bfloat16", "expert", "experts_out_in", "layers.1", 1),
         quantized("affine", [(8, 5)], 64, 8)),
        (TensorInfo("layers.2.up.weight", (5, 12), "float32", "linear", "out_in", "layers.2.up", 2),
         replace(quantized("affine", [(5, 4)], 4, 3), scale_signed=False, scale_steps=4,
                 basis={"name": "rotation", "seed": 2**60 + 7})),
        (TensorInfo("layers.2.tiled.weight", (21, 70), "float32", "linear", "out_in", "layers.2.tiled", 2),
         replace(quantized("table", [(9, 3), (4, 5), (8, 4)], 32, 3), scale_signed=False, storage="tiles")),
        (TensorInfo("layers.2.nested.weight", (24, 10), "float32", "linear", "in_out", "layers.2.nested", 2),
         replace(quantized("affine", [(3, 4), (7, 7)], 64, 5), storage="nested", drops=(Drop(4, 1), Drop(2, 3)))),
        (TensorInfo("layers.2.down.weight", (9, 21), "float32", "linear", "in_out", "layers.2.down", 2),
         TensorPlan("lattice", step=0.25)),
        (TensorInfo("layers.2.gate", (2, 3, 7), "float32", "expert", "experts_out_in", "layers.2", 2),
         TensorPlan("lattice", step=0.5, damping=0.125, price=0.0)),
        (TensorInfo("layers.3.up.weight", (9, 14), "float32", "linear", "out_in", "layers.3.up", 3),
         TensorPlan("factors", low_rank={"name": "truncated_svd"}, rank=3, left=TensorPlan("cast", "float16"),
                    right=TensorPlan("cast", "bfloat16"))),
        (TensorInfo("layers.3.down.weight", (12, 10), "float32", "linear", "in_out", "layers.3.down", 3),
         TensorPlan("factors", low_rank={"name": "residual", "rounds": 2}, rank=4,
                    base=quantized("affine", [(7, 2), (3, 3)], 5, 4), left=quantized("table", [(10, 3)], 4, 3),
                    right=replace(quantized("zero_point", [(4, 4)], 8, 16), basis={"name": "rotation", "seed": 11}))),
        (TensorInfo("norm.weight", (7,), "float16", "norm"), TensorPlan("cast", "float32")),
        (TensorInfo("positions", (3, 5), "float32", "other"), TensorPlan("cast", "float16")),
        (TensorInfo("temperature", (), "float32", "other"), TensorPlan("cast", "float32")),
    ]  # fmt: skip
    infos = tuple(info for info, _ in planned)
    model = Model(folder, "sample", "SampleForCausalLM", {}, infos, "5a" * 32)
    plan = Plan(model.fingerprint, "sample", 3, {info.name: p for info, p in planned}, 9999, 0.125)
    encodings = tuple(random_encoding(info, p, generator) for info, p in planned)
    calibration = Calibration("sample.txt", 640, "7e" * 32)
    companions = {"config.json": b'{"quantization_config":{"quant_method":"mediant"}}', "README.md": "größe".encode()}
    forms = {e.info.name: form for e in encodings if e.plan.method == "lattice" and (form := form_of(e))}
    write(folder, model, plan, calibration, encodings, companions, forms)
    return Sample(folder, model, plan, calibration, encodings, companions, forms)


def random_encoding(info: TensorInfo, plan: TensorPlan, generator: np.random.Generator) -> Encoding:
    """A sound encoding: any codes with a level, scales of some size, ascending levels."""
    if plan.method == "cast":
        values = generator.standard_normal(info.shape).astype(np.float32)
        data = from_float32(values) if plan.dtype == "bfloat16" else values.astype(plan.dtype)
        return Encoding(info, plan, {"data": np.asarray(data)})
    if plan.method == "lattice":
        return Encoding(info, plan, random_coded(info, generator).parts(), Certificate(0.25, 0.125, 0.5, 0.0))
    if plan.method == "factors":
        found = {n: random_encoding(i, plan.factors[n], generator) for n, i in factor_infos(info, plan).items()}
        parts = {f"{name}.{part}": array for name, one in found.items() for part, array in one.parts.items()}
        return Encoding(info, plan, parts, Certificate(0.25, 0.125, 0.0, 0.0))
    form = grid_form(plan)
    columns = info.matrix_shape[1]
    groups = -(-columns // plan.group)

    def packed(width: int, counts: Mapping[int, int], storage: str = "rows") -> np.ndarray:
        runs = [generator.integers(counts.get(r.bits, 1 << r.bits), size=(r.rows, width)) for r in plan.runs]
        tiled = storage != "rows"
        return np.concatenate([
            pack_tiles(c.astype(np.uint8), r.bits, storage) if tiled else pack(c.astype(np.uint8), r.bits)
            for c, r in zip(runs, plan.runs, strict=True)
        ])  # fmt: skip

    tiled = plan.storage != "rows"
    parts: dict[str, np.ndarray] = {"tiles" if tiled else "codes": packed(columns, form.counts, plan.storage)}
    scale = generator.standard_normal((info.matrix_shape[0], groups)).astype(np.float32)
    scale[0, 0] = 0
    parts |= encode_scales(scale, ScaleForm.of(plan))
    if "scale_codes" in parts:
        stored = parts["scale_codes"]
        parts["scale_codes"] = (
            pack_scale_codes(stored, plan.runs, plan.scale_bits) if tiled else pack(stored, plan.scale_bits)
        )
    if form.zero_point:
        parts["zeros"] = packed(groups, {})
    grid = discovery.make("grids", plan.grid)
    parts |= {f"levels.{bits}": grid.levels(bits).astype(np.float32) for bits in form.counts}
    return Encoding(info, plan, parts, Certificate(0.25, 0.125, 0.5, 1e-3))


def random_coded(info: TensorInfo, generator: np.random.Generator) -> CodedMatrix:
    """Numbers whose spread goes by class, the widest beyond a byte, and a row, hence a class, of zeros alone."""
    rows, columns = info.matrix_shape
    row_classes = generator.integers(1, 32, rows).astype(np.uint8)
    row_classes[-1] = 0
    column_classes = np.sort(generator.integers(0, 3, columns)).astype(np.uint8)
    spread = 2.0 ** ((row_classes[:, None] + column_classes) / 4 - 2)
    numbers = np.rint(spread * generator.standard_normal((rows, columns))).astype(np.int16)
    numbers[-1] = 0
    scales = to_float32(from_float32(generator.standard_normal(rows).astype(np.float32)))
    columns_scaled = generator.integers(0, 255, columns, np.uint8)
    return CodedMatrix(numbers, Codebook(scales, columns_scaled, row_classes, column_classes))
