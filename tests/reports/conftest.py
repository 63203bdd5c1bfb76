"""A manifest of two layers as the writer would make it, with names that a page or a shell could trip over."""

from __future__ import annotations

import dataclasses

import pytest

from mediant.checkpoint.manifest import Calibration, Entry, Manifest, Origin, Part
from mediant.forms.cast.form import Cast
from mediant.forms.quantize.form import Quantize
from mediant.values import Certificate, Role, RowSpan, TensorInfo

HOSTILE = "<script>alert('x')</script> $x^2$ & \"q\" {{ 7*7 }} --> ]]>"


def quantized(name: str, layer: int, role: Role, bit_widths: tuple[int, ...], error: float) -> Entry:
    info = TensorInfo(f"{name}.weight", (len(bit_widths) * 8, 64), "bfloat16", role, "out_in", name, layer)
    runs = tuple(RowSpan(8, bits) for bits in bit_widths)
    plan = Quantize(grid={"name": "uniform"}, scale={"name": "exact"}, rounding={"name": "nearest"}, runs=runs)
    parts = {
        "codes": Part("uint8", (sum(bit_widths) * 64,)),
        "row_scale": Part("float16", (8 * len(bit_widths),)),
    }
    return Entry(info, plan, None, parts, Certificate(error, error / 2, 0.5, 0.001))


def cast(name: str, layer: int, role: Role) -> Entry:
    info = TensorInfo(f"{name}.weight", (64,), "float32", role, "none", name, layer)
    return Entry(info, Cast(), None, {"data": Part("float16", (64,))})


@pytest.fixture
def manifest() -> Manifest:
    entries = [quantized("model.embed_tokens", -1, "embedding", (3, 5, 3), 0.02)]
    for layer in range(2):
        here = f"model.layers.{layer}"
        entries += [
            quantized(f"{here}.self_attn.c_proj", layer, "linear", (2 + layer,), 0.1 / (1 + layer)),
            quantized(f"{here}.mlp.c_proj", layer, "linear", (4,), 0.01),
            quantized(f"{here}.mlp.{HOSTILE}", layer, "linear", (6,), 0.001),
            cast(f"{here}.norm", layer, "norm"),
        ]
    return Manifest(
        tool_version="0.1.0",
        model=Origin(HOSTILE, "TinyForCausalLM", "f" * 64, sum(e.info.size for e in entries), True),
        recipe="default",
        seed=3,
        target_bytes=20_000,
        predicted_loss=0.0123,
        calibration=Calibration("file my text.txt", 8192, "0" * 64),
        files=("config.json",),
        tensors={e.info.name: e for e in entries},
    )


@pytest.fixture
def file_sizes(manifest: Manifest) -> dict[str, int]:
    payload = sum(
        {"uint8": 1, "float16": 2}[part.dtype] * part.shape[0]
        for entry in manifest.tensors.values()
        for part in entry.parts.values()
    )
    return {"config.json": 500, "mediant.json": 4000, "mediant.safetensors": payload + 1000}


def without_layers(manifest: Manifest) -> Manifest:
    kept = {name: entry for name, entry in manifest.tensors.items() if entry.info.layer < 0}
    return dataclasses.replace(manifest, tensors=kept)
