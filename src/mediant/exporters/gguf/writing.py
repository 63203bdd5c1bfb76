"""Writes the file: header, tokenizer, tensors; checked before it appears under its name."""

from __future__ import annotations

import os
from pathlib import Path

import gguf
import numpy as np

from mediant.claims import check_space
from mediant.errors import ModelError
from mediant.exporters._dense import Dense
from mediant.exporters.gguf.architectures import Architecture, architecture_of
from mediant.exporters.gguf.checking import check_file
from mediant.exporters.gguf.parameters import add_parameters, check_parameters
from mediant.exporters.gguf.tensors import IDS, Stored, stored_tensors
from mediant.exporters.gguf.tokenizer import add_tokenizer, check_written, chosen
from mediant.exporters.gguf.tokenizing.vocabulary import Vocabulary
from mediant.files import storage_errors, sync
from mediant.models.architecture import own_class
from mediant.progress import Progress

FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}


def write(model: Dense, out: Path, kind: str, progress: Progress, check: bool) -> None:
    """Writes a model to the file `out`, whole or not at all.

    Raises:
        ModelError: it has something that GGUF cannot say.
        StorageError: the disk refuses, or has too little space.
        ExportError: the file does not read back as the model.
    """
    if (own := own_class(model.configuration)) is not None:
        raise ModelError(f"The model runs by code of its own, {own.__name__}, which GGUF has no place for.")
    architecture = architecture_of(model.config.get("architectures"))
    defaults = type(model.configuration)().to_dict()
    check_parameters(model.config, defaults, architecture)
    vocabulary = chosen(model, progress)
    tensors = list(stored_tensors(model, architecture, kind, progress))
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with storage_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            check_space(out.resolve().parent, sum(tensor.nbytes for tensor in tensors))
            _write(model, temporary, architecture, vocabulary, tensors, kind, progress)
            check_written(temporary, vocabulary)
            if check:
                check_file(temporary, model, tensors, progress)
            sync(temporary)
            temporary.replace(out)
            sync(out.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _write(
    model: Dense,
    file: Path,
    architecture: Architecture,
    vocabulary: Vocabulary,
    tensors: list[Stored],
    kind: str,
    progress: Progress,
) -> None:
    writer = gguf.GGUFWriter(file, architecture.name)
    try:
        writer.add_name(model.name)
        add_parameters(writer, model.config, architecture)
        writer.add_file_type(FILE_TYPES[kind])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        add_tokenizer(writer, model, vocabulary)
        for tensor in tensors:
            _announce(writer, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in progress.track(tensors, "Writing GGUF", len(tensors)):
            writer.write_tensor_data(tensor.data())
    finally:
        writer.close()


def _announce(writer: gguf.GGUFWriter, tensor: Stored) -> None:
    plain = {"f32": np.float32, "f16": np.float16}.get(tensor.kind, np.uint8)
    stored = tensor.shape if plain is not np.uint8 else (*tensor.shape[:-1], tensor.row_bytes)
    writer.add_tensor_info(tensor.name, stored, np.dtype(plain), tensor.nbytes, raw_dtype=IDS[tensor.kind])
