"""The tokenizer that a GGUF file holds: what llama.cpp reads of it, from and to the file's header."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

# Fields by llama.cpp's keys under `tokenizer.ggml.`; what is None is not written.
KEYS = {
    "model": "model", "pre": "pre", "tokens": "tokens", "types": "token_type", "scores": "scores", "merges": "merges",
    "bos": "bos_token_id", "eos": "eos_token_id", "unknown": "unknown_token_id", "separator": "seperator_token_id",
    "padding": "padding_token_id", "mask": "mask_token_id", "add_bos": "add_bos_token", "add_eos": "add_eos_token",
    "add_sep": "add_sep_token", "add_space_prefix": "add_space_prefix",
    "remove_extra_whitespaces": "remove_extra_whitespaces", "charsmap": "precompiled_charsmap",
    "lowercase": "normalizer.lowercase", "strip_accents": "normalizer.strip_accents",
}  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and how text becomes them.

    `model` is llama.cpp's name of the kind: `gpt2` (byte-level pairs), `llama` (pairs by score), `t5` (unigram) or
    `bert` (pieces of words). `types` are `gguf.TokenType`.
    """

    model: str
    tokens: list[str]
    types: list[int]
    pre: str = "default"
    scores: list[float] | None = None
    merges: list[str] | None = None
    bos: int | None = None
    eos: int | None = None
    unknown: int | None = None
    separator: int | None = None
    padding: int | None = None
    mask: int | None = None
    add_bos: bool | None = None
    add_eos: bool | None = None
    add_sep: bool | None = None
    add_space_prefix: bool | None = None
    remove_extra_whitespaces: bool | None = None
    charsmap: bytes | None = None
    lowercase: bool | None = None
    strip_accents: bool | None = None

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Adds all fields to a file's header."""
        for name, key in KEYS.items():
            value = getattr(self, name)
            if value is None:
                continue
            full = f"tokenizer.ggml.{key}"
            if isinstance(value, bool):
                writer.add_bool(full, value)
            elif isinstance(value, int):
                writer.add_uint32(full, value)
            elif isinstance(value, str):
                writer.add_string(full, value)
            else:
                writer.add_array(full, value)


def read(file: Path) -> tuple[Vocabulary, str]:
    """Returns the tokenizer in a file, and the model's name, by which llama.cpp strips spaces for some models."""
    fields = gguf.GGUFReader(file).fields
    given: dict[str, Any] = {}
    for name, key in KEYS.items():
        if (field := fields.get(f"tokenizer.ggml.{key}")) is not None:
            given[name] = field.contents()
    if "charsmap" in given:
        given["charsmap"] = bytes(value & 255 for value in given["charsmap"])
    model_name = fields["general.name"].contents() if "general.name" in fields else ""
    return Vocabulary(**given), str(model_name)
