"""A small checkpoint with every layout, form, grid, basis, kind of positions and cast, made once for a test run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from mediant import discovery
from mediant.checkpoint.manifest import Calibration
from mediant.checkpoint.writer import write
from mediant.forms import Encoding, Form, Side
from mediant.forms.cast.form import Cast
from mediant.forms.compand.companded_matrix import CompandedMatrix, cluster_count
from mediant.forms.compand.form import Compand
from mediant.forms.entropy_coded.coded_matrix import CodedMatrix, SideInformation
from mediant.forms.entropy_coded.form import EntropyCoded
from mediant.forms.factors.form import Factors
from mediant.forms.quantize.form import Quantize
from mediant.forms.sparse.form import Sparse, compact_info
from mediant.kernels.bfloat16 import from_float32, to_float32
from mediant.kernels.bit_planes import pack
from mediant.kernels.pairs import BITS, ENTRIES
from mediant.kernels.scale_codes import encode_scales
from mediant.kernels.tiles import pack_scale_codes, pack_tiles
from mediant.planning.plan import Plan
from mediant.values import Certificate, Model, RowSpan, TensorInfo, Truncation

CERTIFICATE = Certificate(0.25, 0.125, 0.0, 0.0)
# What a grid that is fitted to data is fitted to.
SAMPLE = np.linspace(-1, 1, 1025) ** 3

# A pattern of zeros for each kind of stored positions, of a matrix [16, 24] or [24, 16].
PATTERNS: dict[str, dict[str, Any]] = {
    "mask": {"name": "unstructured", "sparsity": 0.5, "scope": "row"},
    "ordered": {"name": "unstructured", "sparsity": 0.875, "scope": "row"},
    "combinations": {"name": "n_of_m", "n": 2, "m": 4},
    "blocks": {"name": "blocks", "sparsity": 0.5, "height": 4, "width": 8},
}


class SampleGrid(NamedTuple):
    """A grid for `sample_checkpoint`, of each form that a checkpoint knows."""

    form: str
    zero_point: bool

    def levels(self, bits: int, sample: object = None, weights: object = None) -> np.ndarray:
        """Half steps around 0, whole steps from 0, a table with three quarters of the codes, or a codebook of pairs."""
        count = 1 << bits
        if self.form == "sample_pairs" and bits == BITS:
            return np.sin(2.5 * np.arange(ENTRIES)).reshape(2, -1)
        if self.form == "sample_pairs":
            return np.arange(count) ** 1.25 - 2
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
    sidecar_files: dict[str, bytes]
    sides: dict[str, Side]


@pytest.fixture(scope="session")
def sample_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    """The sample, with the stub grids in place as long as the tests run. Not to be changed."""
    real = discovery.make

    def make(kind: str, spec: discovery.Spec) -> object:
        name = spec.get("name")
        stub = kind == "grids" and name in ("sample_affine", "sample_zero_point", "sample_table", "sample_pairs")
        return SampleGrid(str(name), name == "sample_zero_point") if stub else real(kind, spec)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discovery, "make", make)
        yield write_sample(tmp_path_factory.mktemp("sample") / "checkpoint")


def write_sample(folder: Path) -> Sample:
    """Writes the checkpoint of `sample_checkpoint`."""
    generator = np.random.default_rng(5)

    def quantized(form: str, runs: list[tuple[int, int]], group: int, scale_bits: int) -> Quantize:
        name = {"name": f"sample_{form}"}
        return Quantize(grid=name, scale=name, rounding=name, runs=tuple(itertools.starmap(RowSpan, runs)),
            group=group, scale_bits=scale_bits,
        )  # fmt: skip

    def sparse(pattern: Mapping[str, Any], plan: Quantize | Cast) -> Sparse:
        return Sparse(plan, pattern, {"name": "magnitude"})

    planned = [
        (TensorInfo("embed.weight", (37, 24), "float32", "embedding", "out_in", "embed", aliases=("head.weight",)),
         quantized("affine", [(5, 8), (20, 3), (12, 1)], 16, 6)),
        (TensorInfo("layers.0.in.weight", (24, 10), "float32", "linear", "in_out", "layers.0.in", 0),
         quantized("zero_point", [(3, 4), (7, 2)], 10, 16)),
        (TensorInfo("layers.0.in.bias", (10,), "float32", "bias", "none", "layers.0.in", 0),
         Cast("bfloat16", bias_correction=True)),
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
         replace(quantized("affine", [(3, 4), (7, 7)], 64, 5), storage="nested",
                 truncations=(Truncation(4, 1), Truncation(2, 3)))),
        (TensorInfo("layers.2.down.weight", (9, 21), "float32", "linear", "in_out", "layers.2.down", 2),
         EntropyCoded(step=0.25)),
        (TensorInfo("layers.2.gate", (2, 3, 7), "float32", "expert", "experts_out_in", "layers.2", 2),
         EntropyCoded(step=0.5, damping=0.125, price=0.0)),
        (TensorInfo("layers.3.up.weight", (9, 14), "float32", "linear", "out_in", "layers.3.up", 3),
         Factors(low_rank={"name": "truncated_svd"}, rank=3, left=Cast("float16"),
                    right=Cast("bfloat16"))),
        (TensorInfo("layers.3.down.weight", (12, 10), "float32", "linear", "in_out", "layers.3.down", 3),
         Factors(low_rank={"name": "residual", "rounds": 2}, rank=4,
                    base=quantized("affine", [(7, 2), (3, 3)], 5, 4), left=quantized("table", [(10, 3)], 4, 3),
                    right=replace(quantized("zero_point", [(4, 4)], 8, 16), basis={"name": "rotation", "seed": 11}))),
        (TensorInfo("layers.4.up.weight", (11, 9), "float32", "linear", "in_out", "layers.4.up", 4),
         Compand(multiplier=0.5, rate=3.0, cluster=4, sequences=2, renewal=0)),
        (TensorInfo("layers.4.gate", (2, 3, 6), "float32", "expert", "experts_out_in", "layers.4", 4),
         Compand(multiplier=2.5, rate=1.5, cluster=512)),
        *((TensorInfo(f"layers.5.{name}.weight", (16, 24), "float32", "linear", layout, f"layers.5.{name}", 5),
           sparse(pattern, plan))
          for (kind, pattern), layout in zip(PATTERNS.items(), ("out_in", "in_out", "out_in", "in_out"), strict=True)
          for name, plan in (
              (f"{kind}_cast", Cast("bfloat16" if layout == "in_out" else "float16")),
              (f"{kind}_quantized", quantized("table", [(9, 2), (7 if layout == "out_in" else 15, 4)], 4, 5)),
          )),
        (TensorInfo("layers.6.up.weight", (6, 19), "float32", "linear", "out_in", "layers.6.up", 6),
         replace(quantized("zero_point", [(2, 3), (4, 2)], 8, 16), outliers=3)),
        (TensorInfo("layers.6.down.weight", (19, 6), "float32", "linear", "in_out", "layers.6.down", 6),
         replace(quantized("affine", [(6, 4)], 4, 6), basis={"name": "columns", "by": {"name": "awq"}})),
        (TensorInfo("layers.6.gate.weight", (10, 37), "float32", "linear", "out_in", "layers.6.gate", 6),
         replace(quantized("table", [(10, 3)], 32, 4), storage="tiles", outliers=2,
                 basis={"name": "columns", "by": {"name": "smoothquant", "strength": 0.5}})),
        (TensorInfo("layers.7.up.weight", (17, 39), "float32", "linear", "out_in", "layers.7.up", 7),
         replace(quantized("pairs", [(9, 2), (8, 3)], 32, 3), storage="tiles",
                 basis={"name": "rotation", "seed": 5})),
        (TensorInfo("layers.7.down.weight", (13, 5), "float32", "linear", "in_out", "layers.7.down", 7),
         quantized("pairs", [(2, 1), (3, 2)], 6, 16)),
        (TensorInfo("norm.weight", (7,), "float16", "norm"), Cast("float32")),
        (TensorInfo("positions", (3, 5), "float32", "other"), Cast("float16")),
        (TensorInfo("temperature", (), "float32", "other"), Cast("float32")),
    ]  # fmt: skip
    infos = tuple(info for info, _ in planned)
    model = Model(folder, "sample", "SampleForCausalLM", {}, infos, "5a" * 32)
    plan = Plan(model.fingerprint, "sample", 3, {info.name: p for info, p in planned}, 9999, 0.125)
    encodings = tuple(random_encoding(info, p, generator) for info, p in planned)
    calibration = Calibration("sample.txt", 640, "7e" * 32)
    sidecar_files = {
        "config.json": b'{"quantization_config":{"quant_method":"mediant"}}',
        "README.md": "größe".encode(),
    }
    sides = {e.info.name: e.side for e in encodings if e.plan.measured}
    write(folder, model, plan, calibration, encodings, sidecar_files, sides)
    return Sample(folder, model, plan, calibration, encodings, sidecar_files, sides)


def random_encoding(info: TensorInfo, plan: Form, generator: np.random.Generator) -> Encoding:
    """A sound encoding: any codes with a level, scales of some size, ascending levels."""
    if isinstance(plan, Cast):
        values = generator.standard_normal(info.shape).astype(np.float32)
        data = from_float32(values) if plan.dtype == "bfloat16" else values.astype(plan.dtype)
        return Encoding(info, plan, {"data": np.asarray(data)})
    if isinstance(plan, EntropyCoded):
        return Encoding(info, plan, random_coded(info, generator).parts(), Certificate(0.25, 0.125, 0.5, 0.0))
    if isinstance(plan, Compand):
        return Encoding(info, plan, random_companded(info, plan.cluster, generator).parts(), CERTIFICATE)
    if isinstance(plan, Sparse):
        return random_sparse(info, plan, generator)
    if isinstance(plan, Factors):
        found = {n: random_encoding(i, plan.factors[n], generator) for n, i in plan.infos(info).items()}
        parts = {f"{name}.{part}": array for name, one in found.items() for part, array in one.parts.items()}
        return Encoding(info, plan, parts, CERTIFICATE)
    assert isinstance(plan, Quantize)
    form = plan.side(info)
    columns = info.matrix_shape[1]
    groups = -(-columns // plan.group)

    def packed(width: int, counts: Mapping[int, int], storage: str = "rows") -> np.ndarray:
        most = {r.bits: min(1 << r.bits, counts.get(r.bits, 256)) for r in plan.runs}
        runs = [generator.integers(most[r.bits], size=(r.rows, width)) for r in plan.runs]
        tiled = storage != "rows"
        return np.concatenate([
            pack_tiles(c.astype(np.uint8), r.bits, storage) if tiled else pack(c.astype(np.uint8), r.bits)
            for c, r in zip(runs, plan.runs, strict=True)
        ])  # fmt: skip

    tiled = plan.storage != "rows"
    parts: dict[str, np.ndarray] = {"tiles" if tiled else "codes": packed(columns, form.counts, plan.storage)}
    scale = generator.standard_normal((info.matrix_shape[0], groups)).astype(np.float32)
    scale[0, 0] = 0
    parts |= encode_scales(scale, plan.scale_form)
    if "scale_codes" in parts:
        stored = parts["scale_codes"]
        parts["scale_codes"] = (
            pack_scale_codes(stored, plan.runs, plan.scale_bits) if tiled else pack(stored, plan.scale_bits)
        )
    if form.zero_point:
        parts["zeros"] = packed(groups, {})
    grid = discovery.make("grids", plan.grid)
    parts |= {f"levels.{bits}": grid.levels(bits, SAMPLE).astype(np.float32).reshape(-1) for bits in form.counts}
    if plan.outliers:
        chosen = np.isin(np.arange(columns), generator.choice(columns, plan.outliers, replace=False))
        values = 8 * generator.standard_normal((info.matrix_shape[0], plan.outliers))
        parts |= {"outlier_mask": pack(chosen.astype(np.uint8), 1), "outliers": values.astype(np.float16)}
    if plan.basis.get("name") == "columns":
        parts["column_scales"] = from_float32(np.exp(generator.standard_normal(columns)).astype(np.float32))
    return Encoding(info, plan, parts, Certificate(0.25, 0.125, 0.5, 1e-3))


def random_sparse(info: TensorInfo, plan: Sparse, generator: np.random.Generator) -> Encoding:
    """Any positions that fit the pattern, and any weights there."""
    rows, columns = info.matrix_shape
    pattern = discovery.make("pruning.patterns", plan.pattern)
    positions = pattern.positions(rows, columns)
    parts = {"positions": positions.encode(pattern.mask(generator.random((rows, columns))))}
    vector = replace(info, shape=(positions.stored,), layout="none")
    stored = vector if plan.values.plain else compact_info(info, positions)
    kept = random_encoding(stored, plan.values, generator)
    return Encoding(info, plan, parts | dict(kept.parts), CERTIFICATE)


def random_companded(info: TensorInfo, size: int, generator: np.random.Generator) -> CompandedMatrix:
    """Any codes at any bit widths; every cluster has a row."""
    rows, columns = info.matrix_shape
    count = cluster_count(rows, size)
    clusters = generator.permutation(np.arange(rows) % count).astype(np.uint8)
    bit_widths = generator.integers(0, 9, (count, columns)).astype(np.uint8)
    codes = (generator.random((rows, columns)) * (1 << bit_widths[clusters])).astype(np.uint8)
    scales, centres = (
        to_float32(from_float32(generator.standard_normal((count, columns)).astype(np.float32))) for _ in range(2)
    )
    return CompandedMatrix(codes, clusters, bit_widths, scales, centres)


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
    return CodedMatrix(numbers, SideInformation(scales, columns_scaled, row_classes, column_classes))
