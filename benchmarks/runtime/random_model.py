"""A checkpoint of the shape of a large model, with random codes, written without ever holding a dense matrix.

    python benchmarks/runtime/random_model.py random-7b --bits 4
    mediant bench random-7b

The codes are noise, and so is what it writes; its speed and memory are those of a real model of that shape. The default
shape is that of Llama 2 7B.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mediant.checkpoint.writer import write
from mediant.forms import Encoding, Form
from mediant.forms.cast.form import Cast
from mediant.forms.parts import NUMPY_DTYPES
from mediant.forms.quantize.form import Quantize
from mediant.kernels.bfloat16 import from_float32
from mediant.models.configuration import resolve, sealed
from mediant.planning.plan import Plan
from mediant.runtime.families import describe
from mediant.values import Model, RowSpan, TensorInfo

SHAPES = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 32, "vocab_size": 32000},
    "135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "vocab_size": 49152},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--storage", choices=("tiles", "nested"), default="tiles")
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    given = parser.parse_args()
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096, "rope_theta": 10000.0, "tie_word_embeddings": given.shape != "7b",
        "attention_bias": False, "mlp_bias": False, "bos_token_id": 1, "eos_token_id": 2, **SHAPES[given.shape],
    }  # fmt: skip
    tensors = tuple(infos(config))
    model = Model(given.folder, f"random-{given.shape}", "LlamaForCausalLM", config, tensors, "0" * 64, True)
    plans = {info.name: plan_of(info, given.bits, given.storage) for info in tensors}
    plan = Plan(model.fingerprint, "random", 0, plans)
    companions = {"config.json": json.dumps(sealed(config, given.shape)).encode()}
    write(given.folder, model, plan, None, encodings(tensors, plans), companions)
    print(f"{given.folder}: {sum(file.stat().st_size for file in given.folder.iterdir()) / 1e9:.2f} GB")


def infos(config: dict) -> Iterator[TensorInfo]:
    d = describe(resolve(config))
    q, k = d.heads * d.head_dim, d.kv_heads * d.head_dim
    shapes = {"query": (q, d.hidden), "key": (k, d.hidden), "value": (k, d.hidden), "out": (d.hidden, q),
              "gate": (d.inner, d.hidden), "up": (d.inner, d.hidden), "down": (d.hidden, d.inner)}  # fmt: skip
    aliases = ("lm_head.weight",) if config["tie_word_embeddings"] else ()
    embedding = d.single["embedding"]
    yield TensorInfo(
        f"{embedding}.weight", (d.vocabulary, d.hidden), "float16", "embedding", "out_in", embedding, -1, aliases
    )
    for layer in range(len(d.layers)):
        for role, shape in shapes.items():
            module = d.matrices[role].format(layer)
            yield TensorInfo(f"{module}.weight", shape, "float16", "linear", "out_in", module, layer)
        for template in d.norms.values():
            module = template.format(layer)
            yield TensorInfo(f"{module}.weight", (d.hidden,), "float16", "norm", "none", module, layer)
    yield TensorInfo("model.norm.weight", (d.hidden,), "float16", "norm", "none", "model.norm", -1)
    if not aliases:
        yield TensorInfo("lm_head.weight", (d.vocabulary, d.hidden), "float16", "head", "out_in", "lm_head", -1)


def plan_of(info: TensorInfo, bits: int, storage: str) -> Form:
    if info.layout == "none":
        return Cast("float16")
    return Quantize(grid={"name": "uniform"}, scale={"name": "absmax"},
        rounding={"name": "nearest"}, runs=(RowSpan(info.shape[0], bits),), group=32, scale_bits=3, scale_signed=False,
        scale_steps=4, storage=storage,
        basis={"name": "rotation", "seed": 0},
    )  # fmt: skip


def encodings(tensors: tuple[TensorInfo, ...], plans: dict[str, Form]) -> Iterator[Encoding]:
    random = np.random.default_rng(0)
    for info in tensors:
        plan = plans[info.name]
        if plan.plain:
            yield Encoding(info, plan, {"data": np.ones(info.shape, np.float16)})
            continue
        parts = {}
        for part, (dtype, shape) in plan.parts(info).items():
            size = int(np.prod(shape)) * NUMPY_DTYPES[dtype].itemsize
            parts[part] = np.frombuffer(random.bytes(size), NUMPY_DTYPES[dtype]).reshape(shape)
        small = np.full(info.shape[0], 0.2 / np.sqrt(info.shape[1]), np.float32)
        codes = parts["scale_codes"].copy()
        codes[-1] = 0
        yield Encoding(info, plan, {**parts, "row_scales": from_float32(small), "scale_codes": codes})


if __name__ == "__main__":
    main()
