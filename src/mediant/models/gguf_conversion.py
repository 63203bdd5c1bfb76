"""Turns a GGUF file into a float32 Hugging Face folder, once; later runs take it from the cache.

transformers does the reading (its `gguf_file`) and unpacks the blocks. What it would get wrong without a
word is refused here: a tensor it does not find, and rotary scaling, which it drops.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from safetensors import SafetensorError
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mediant import files
from mediant.claims import claimed
from mediant.errors import ModelError, StorageError
from mediant.models.content import file_hash
from mediant.models.folder import ORIGIN
from mediant.models.reference import check_complete
from mediant.progress import SILENT, Progress

FORMAT = 1
"""Part of the cache key: raise it when the same file would give another folder."""

ROTARY_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")

SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""Values of `tokenizer.ggml.pre` that transformers ignores: GPT-2's splits after single digits."""


@dataclass(frozen=True)
class Header:
    """What decides whether and how a GGUF file can be converted."""

    name: str
    architecture: str
    pre_tokenizer: str
    has_tokenizer: bool


def converted(file: Path, progress: Progress = SILENT) -> Path:
    """The folder of the model in `file`, converted if it is not yet in the cache.

    Raises:
        ModelError: the file is damaged, is not a whole model, or transformers does not take its architecture.
        StorageError: the cache folder cannot be written.
    """
    digest = file_hash(file)
    target = files.cache_folder() / "models" / f"{file.stem}-{digest[:16]}-{FORMAT}"
    if target.is_dir():
        return target
    header = read_header(file)
    with claimed(target, progress):
        if not target.is_dir():
            _convert(file, digest, header, target, progress)
    return target


def _convert(file: Path, digest: str, header: Header, target: Path, progress: Progress) -> None:
    progress.say(f"converting {file.name} to float32; this is kept in {target}")
    steps = iter(progress.track(("reading", "writing"), f"converting {file.name}"))
    next(steps)
    network, tokenizer = _read(file, header)
    next(steps)
    origin = {
        "name": header.name,
        "file": str(file.resolve()),
        "sha256": digest,
        "architecture": header.architecture,
    }
    _write(target, network, tokenizer, origin)
    next(steps, None)


def read_header(file: Path) -> Header:
    """The metadata of a GGUF file.

    Raises:
        ModelError: it is damaged or not a model that can be converted.
    """
    with file.open("rb") as start:
        if start.read(4) != b"GGUF":
            raise ModelError(f"{file} is not a GGUF file: it does not begin with the letters GGUF.")
    try:
        reader = GGUFReader(file)
        fields = {name: field.contents() for name, field in reader.fields.items() if name in _READ or ".rope." in name}
        tensors = {tensor.name for tensor in reader.tensors}
        has_tokenizer = "tokenizer.ggml.tokens" in reader.fields
    except Exception as problem:  # the reader stumbles in any way over wrong lengths
        raise ModelError(f"The GGUF file {file} is damaged or of an unknown version: {problem!r}") from problem
    _check_whole(file, fields)
    _check_rotary(file, fields, tensors)
    return Header(
        name=fields.get("general.name") or file.stem,
        architecture=fields["general.architecture"],
        pre_tokenizer=fields.get("tokenizer.ggml.pre", ""),
        has_tokenizer=has_tokenizer,
    )


_READ = ("general.name", "general.type", "general.architecture", "split.count", "tokenizer.ggml.pre")


def _check_whole(file: Path, fields: dict[str, Any]) -> None:
    if "general.architecture" not in fields or fields.get("general.type", "model") != "model":
        raise ModelError(f"The GGUF file {file} is not a model but {fields.get('general.type', 'of unknown kind')!r}.")
    if fields.get("split.count", 1) > 1:
        raise ModelError(
            f"{file} is one of {fields['split.count']} parts of a model; merge them first (llama-gguf-split --merge)."
        )


def _check_rotary(file: Path, fields: dict[str, Any], tensors: set[str]) -> None:
    scaling = fields.get(f"{fields['general.architecture']}.rope.scaling.type", "none")
    if scaling != "none" or not tensors.isdisjoint(ROTARY_TENSORS):
        raise ModelError(
            f"The model in {file} scales its rotary frequencies, which transformers cannot take from a GGUF"
            " file; give the Hugging Face folder it was made from."
        )


def _read(file: Path, header: Header) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    try:
        network, report = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
        tokenizer = _read_tokenizer(file, header) if header.has_tokenizer else None
    except MemoryError:
        raise
    except Exception as problem:  # KeyError, ValueError, ImportError and more
        raise ModelError(
            f"transformers cannot convert the GGUF file {file} of the architecture {header.architecture!r}: {problem}"
        ) from problem
    check_complete(report, f"The weights in {file}")
    return network, tokenizer


def _read_tokenizer(file: Path, header: Header) -> PreTrainedTokenizerBase:
    # Not AutoTokenizer, which reads the whole file once more to choose a class that tokenizer.json makes needless.
    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True
    )
    if header.pre_tokenizer in SINGLE_DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return tokenizer


def _write(
    target: Path, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, origin: dict[str, str]
) -> None:
    """Writes the folder beside its place and renames it when it is whole."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with files.storage_errors(target):
            temporary.mkdir(parents=True, exist_ok=True)
            _dense(network).save_pretrained(temporary, max_shard_size="5GB")
            if tokenizer is not None:
                tokenizer.save_pretrained(temporary)
                _compact(temporary / "tokenizer.json")
            (temporary / ORIGIN).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
            _publish(temporary, target)
    except SafetensorError as problem:
        raise StorageError(f"Cannot write {target}: {problem}.") from problem
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _dense(network: PreTrainedModel) -> PreTrainedModel:
    """The same numbers in a network that does not know that they came from a GGUF file."""
    config = copy.deepcopy(network.config)
    del config.quantization_config
    dense: PreTrainedModel = type(network).from_pretrained(
        None, config=config, state_dict=network.state_dict(), dtype=torch.float32
    )
    return dense


def _compact(file: Path) -> None:
    """Rewrites a tokenizer without spaces, and its merges as "a b" where that reads back as the same.

    Its bytes count in every compressed model.
    """
    text = file.read_text(encoding="utf-8")
    data = json.loads(text)
    shortest = _dump(data | {"model": _joined_merges(data["model"])})
    file.write_text(shortest if _same_tokenizer(shortest, text) else _dump(data), encoding="utf-8")


def _dump(data: dict[str, Any]) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False)


def _joined_merges(model: dict[str, Any]) -> dict[str, Any]:
    return model | {"merges": [" ".join(pair) for pair in model["merges"]]} if "merges" in model else model


def _same_tokenizer(one: str, other: str) -> bool:
    try:
        return bool(Tokenizer.from_str(one).to_str() == Tokenizer.from_str(other).to_str())
    except Exception:  # the tokenizers library raises bare Exception: a token with a space in it
        return False


def _publish(temporary: Path, target: Path) -> None:
    for file in temporary.iterdir():
        files.sync(file)
    if not target.exists():
        temporary.rename(target)
    files.sync(target.parent)
