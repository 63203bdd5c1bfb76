"""Exports to a GGUF file for llama.cpp: Llama-like and Qwen models, with their tokenizer.

llama.cpp keeps the rows of Llama's query and key matrices in another order: transformers rotates the two halves of a
head against each other, llama.cpp neighbouring rows, so halves are interleaved here. Qwen's stay. Norms and biases are
float32; matrices of the chosen type where their rows divide into its blocks, else float16.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

from mediant.errors import ModelError, UsageError
from mediant.exporters.dense import Dense, opened
from mediant.exporters.gguf_tokenizer import add_tokenizer
from mediant.files import storage_errors
from mediant.models.lazy import LazyTensor
from mediant.progress import SILENT, Progress

ARCHITECTURES = {
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "MistralForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
}
Quantization = gguf.GGMLQuantizationType
TYPES = {"f32": Quantization.F32, "f16": Quantization.F16, "q8_0": Quantization.Q8_0, "q4_0": Quantization.Q4_0}
FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}


def export(spec: str, out: Path, kind: str = "f16", progress: Progress = SILENT) -> None:
    """Writes the model `spec` to the file `out`, whole or not at all.

    Raises:
        UsageError: there is no such type.
        ModelError: the model is of no architecture that is known here, or has something that GGUF cannot say.
        StorageError: the disk refuses.
    """
    if kind not in TYPES:
        raise UsageError(f"The type {kind!r} is none of {', '.join(TYPES)}.")
    with opened(spec, torch.float32, progress) as model:
        name = (model.config.get("architectures") or ["?"])[0]
        if name not in ARCHITECTURES:
            raise ModelError(
                f"A model of the architecture {name!r} cannot become GGUF; {', '.join(ARCHITECTURES)} can."
            )
        temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
        try:
            with storage_errors(out):
                out.parent.mkdir(parents=True, exist_ok=True)
                _write(model, temporary, ARCHITECTURES[name], kind, progress)
                temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)


def _write(model: Dense, file: Path, architecture: gguf.MODEL_ARCH, kind: str, progress: Progress) -> None:
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture])
    try:
        _add_parameters(writer, model, kind)
        add_tokenizer(writer, model)
        names = gguf.get_tensor_name_map(architecture, int(model.config["num_hidden_layers"]))
        types = {name: _type(tensor, TYPES[kind]) for name, tensor in model.tensors.items()}
        for name, tensor in model.tensors.items():
            _announce(writer, _name(names, name), tensor.shape, types[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in progress.track(model.tensors.items(), "Writing GGUF", len(model.tensors)):
            values = _ordered(name, tensor.read().numpy(), model.config, architecture)
            writer.write_tensor_data(gguf.quants.quantize(values, types[name]))
    finally:
        writer.close()


def _add_parameters(writer: gguf.GGUFWriter, model: Dense, kind: str) -> None:
    c = model.config
    heads = int(c["num_attention_heads"])
    size = int(c.get("head_dim") or c["hidden_size"] // heads)
    writer.add_name(model.name)
    writer.add_context_length(int(c["max_position_embeddings"]))
    writer.add_embedding_length(int(c["hidden_size"]))
    writer.add_block_count(int(c["num_hidden_layers"]))
    writer.add_feed_forward_length(int(c["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(c.get("num_key_value_heads") or heads))
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(_rope_base(c))
    writer.add_layer_norm_rms_eps(float(c["rms_norm_eps"]))
    writer.add_vocab_size(int(c["vocab_size"]))
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _rope_base(config: Mapping[str, Any]) -> float:
    rope = config.get("rope_parameters") or {}
    kind = rope.get("rope_type", "default")
    layers = set(config.get("layer_types") or ["full_attention"])
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        layers.add("sliding_attention")
    if kind != "default" or layers != {"full_attention"}:
        raise ModelError(f"The rotary type {kind!r} with the layers {sorted(layers)} is not exported to GGUF.")
    return float(rope.get("rope_theta", 10_000.0))


def _type(tensor: LazyTensor, wanted: Any) -> Any:
    """Vectors stay float32; rows that do not divide into blocks are float16."""
    if len(tensor.shape) < 2:
        return Quantization.F32
    block, _ = gguf.GGML_QUANT_SIZES[wanted]
    return wanted if tensor.shape[-1] % block == 0 else Quantization.F16


def _announce(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], kind: Any) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    bytes_of_row = shape[-1] // block * size
    nbytes = int(np.prod(shape[:-1], dtype=np.int64)) * bytes_of_row
    plain = {Quantization.F32: np.float32, Quantization.F16: np.float16}.get(kind, np.uint8)
    stored = shape if plain is not np.uint8 else (*shape[:-1], bytes_of_row)
    writer.add_tensor_info(name, stored, np.dtype(plain), nbytes, raw_dtype=kind)


def _name(names: gguf.TensorNameMap, name: str) -> str:
    found = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise ModelError(f"GGUF has no name for the tensor {name!r}.")
    return str(found)


def _ordered(
    name: str, values: NDArray[np.float32], config: Mapping[str, Any], architecture: gguf.MODEL_ARCH
) -> NDArray[np.float32]:
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    module = name.split(".")[-2] if "." in name else ""
    if architecture is not gguf.MODEL_ARCH.LLAMA or module not in heads:
        return np.ascontiguousarray(values)
    return interleaved(values, int(config[heads[module]]))


def interleaved(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of every head: first, first of the second half, second, second of the second half, and so on.

    >>> interleaved(np.arange(8, dtype=np.float32)[:, None], 2).ravel().tolist()
    [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]
    """
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
