"""The tokenizer inside a GGUF file, as the files that transformers reads.

transformers builds it, in a folder where nothing but the file lies: beside a `tokenizer.json` it would take that,
whosever it is. What it does not read is done or refused here: how text is split where it knows no rule of that name,
and the space before a text.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from mediant import files
from mediant.errors import ModelError
from mediant.models.gguf.file import GGUFFile
from mediant.progress import SILENT, Progress

PREFIX = "tokenizer.ggml."
TAKEN = (
    "model", "pre", "tokens", "scores", "token_type", "merges", "bos_token_id", "eos_token_id", "unknown_token_id",
    "padding_token_id", "add_bos_token", "add_eos_token", "add_space_prefix", "eot_token_id", "eom_token_id",
)  # fmt: skip
"""Keys that go into the tokenizer or into the generation settings."""

IRRELEVANT = {
    "fim_*": "tokens for filling in, which are in the vocabulary",
    "prefix_token_id": "a token for filling in",
    "suffix_token_id": "a token for filling in",
    "middle_token_id": "a token for filling in",
    "seperator_token_id": "a token that only encoders put between texts",
    "separator_token_id": "a token that only encoders put between texts",
    "cls_token_id": "a token that only encoders put before a text",
    "mask_token_id": "a token that only encoders fill in",
    "token_type_count": "kinds of text of encoders",
}
"""Keys, by their beginning, that decide nothing about the tokens of a text."""

SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""Values of `pre` for GPT-2's splits after single digits."""

AS_GPT2 = (
    "gpt-2", "phi-2", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code", "roberta-bpe",
    "gigachat", "a.x-4.0", "mellum", "modern-bert", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4",
)  # fmt: skip
AS_OTHERS = {"stablelm2": "qwen2", "glm4": "llama-bpe", "chatglm-bpe": "llama-bpe"}
UNSAID = ("", "default")


def tokenizer(file: GGUFFile, progress: Progress = SILENT) -> PreTrainedTokenizerBase | None:
    """Returns the tokenizer of the file; None if it has none.

    Raises:
        ModelError: it is of a kind that is not known, or has a setting that has no place.
    """
    kind = file.fields.get(f"{PREFIX}model")
    if kind in (None, "none", "no_vocab") or f"{PREFIX}tokens" not in file.fields:
        return None
    _check_settings(file)
    found = _built(file)
    if kind == "gpt2":
        _set_splits(file, found, progress)
    elif file.fields.get(f"{PREFIX}add_space_prefix") is False:
        _begin_without_space(found)
    _set_templates(file, found)
    return found


def files_of(found: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """Returns the files of a tokenizer by name; `tokenizer.json` is as short as can be, for its bytes count ever
    after.
    """
    with tempfile.TemporaryDirectory() as folder:
        found.save_pretrained(folder)
        contents = {str(f.relative_to(folder)): f.read_bytes() for f in sorted(Path(folder).rglob("*")) if f.is_file()}
    if "tokenizer.json" in contents:
        contents["tokenizer.json"] = compact(contents["tokenizer.json"].decode("utf-8")).encode()
    return contents


def end_tokens(file: GGUFFile) -> int | list[int] | None:
    """Returns the tokens at which a text ends: of the text, of a turn and of a message, where the file says so."""
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    said = [file.fields[f"{PREFIX}{key}"] for key in keys if f"{PREFIX}{key}" in file.fields]
    distinct = list(dict.fromkeys(int(token) for token in said))
    return distinct if len(distinct) > 1 else next(iter(distinct), None)


def compact(text: str) -> str:
    """Returns a tokenizer without white space, and its merges as "a b" where that reads back as the same."""
    data = json.loads(text)
    shortest = _dump(data | {"model": _joined_merges(data["model"])})
    return shortest if _same_tokenizer(shortest, text) else _dump(data)


def _built(file: GGUFFile) -> PreTrainedTokenizerBase:
    with tempfile.TemporaryDirectory() as alone:
        (Path(alone) / "model.gguf").symlink_to(file.path.resolve())
        try:
            # Not AutoTokenizer, which reads the whole file once more to choose a class that tokenizer.json makes
            # needless.
            found: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(
                alone, gguf_file="model.gguf", local_files_only=True
            )
        except MemoryError:
            raise
        except Exception as problem:  # KeyError, ValueError, and the tokenizers library's bare Exception
            raise ModelError(
                f"The tokenizer in the GGUF file {file.path} cannot be read: {files.reason(problem)}"
            ) from problem
    found.init_kwargs.pop("name_or_path", None)
    return found


def _check_settings(file: GGUFFile) -> None:
    left = []
    for key, value in file.fields.items():
        name = key.removeprefix(PREFIX)
        known = name in TAKEN or any(name.startswith(start.rstrip("*")) for start in IRRELEVANT)
        if key.startswith(PREFIX) and not known and value not in (False, 0, ""):
            left.append(f"{key} = {str(value)[:40]}")
    if left:
        raise ModelError(
            f"The tokenizer in the GGUF file {file.path} has settings that Mediant does not know: {', '.join(left)};"
            " give the Hugging Face folder it was made from."
        )


def _set_splits(file: GGUFFile, found: PreTrainedTokenizerBase, progress: Progress) -> None:
    """Splits text before merging as the rule of that name does, where transformers does not know it."""
    said = str(file.fields.get(f"{PREFIX}pre", ""))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if said in SINGLE_DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        found.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    elif said in AS_OTHERS:
        split = pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[AS_OTHERS[said]]), behavior="isolated")
        rest = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        found.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, rest])
    elif said in UNSAID:
        progress.say(
            f"{file.path.name} does not say how text is split before tokens are merged; it is split as for GPT-2"
        )
    elif said not in AS_GPT2 and said not in GGUF_PRE_TOKENIZER_SPLITS:
        raise ModelError(
            f"The GGUF file {file.path} splits text by the rule {said!r}, which Mediant does not know; give the Hugging"
            " Face folder it was made from."
        )


def _begin_without_space(found: PreTrainedTokenizerBase) -> None:
    """Takes away the space that SentencePiece puts before a text, and its removal when tokens become text."""
    backend = found.backend_tokenizer
    if isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=backend.pre_tokenizer.split)
    normalizer = json.loads(backend.to_str())["normalizer"]
    if normalizer is not None and "Prepend" in json.dumps(normalizer):
        backend.normalizer = normalizers.Replace(" ", "\u2581")
    spaces = decoders.Replace("\u2581", " ")
    backend.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse()])


def _set_templates(file: GGUFFile, found: PreTrainedTokenizerBase) -> None:
    """Takes the chat templates that have names beside the unnamed one, which is the default."""
    start = "tokenizer.chat_template."
    named = {key.removeprefix(start): value for key, value in file.fields.items() if key.startswith(start)}
    if named:
        default = file.fields.get("tokenizer.chat_template")
        found.chat_template = named | ({"default": default} if default else {})


def _dump(data: dict[str, Any]) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False)


def _joined_merges(model: dict[str, Any]) -> dict[str, Any]:
    return model | {"merges": [" ".join(pair) for pair in model["merges"]]} if "merges" in model else model


def _same_tokenizer(one: str, other: str) -> bool:
    try:
        return bool(Tokenizer.from_str(one).to_str() == Tokenizer.from_str(other).to_str())
    except Exception:  # the tokenizers library raises bare Exception: a token with a space in it
        return False
