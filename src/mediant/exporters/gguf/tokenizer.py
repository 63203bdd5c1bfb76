"""The tokenizer of a model as GGUF has it: tokens with their types, merges, and which splitting comes first.

llama.cpp knows the splitting only by a name, which is found here from the rules in `tokenizer.json`; rules that have no
known name are refused, since text would be split wrongly without a word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gguf

from mediant.errors import ModelError
from mediant.exporters._dense import Dense

SPECIAL = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "pad_token_id"}
# Splittings by what is typical in their regular expressions.
PATTERNS = {
    r"\p{N}{1,3}": "llama-bpe",
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|": "qwen2",
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|": "qwen2",
}


def add_tokenizer(writer: gguf.GGUFWriter, model: Dense) -> None:
    """Writes the tokenizer in a model's `tokenizer.json`.

    Raises:
        ModelError: there is none, or one of a kind that is not known here.
    """
    if "tokenizer.json" not in model.files:
        raise ModelError(f"{model.name} has no tokenizer.json, which GGUF needs.")
    data = json.loads(model.files["tokenizer.json"].read_text(encoding="utf-8"))
    if data["model"].get("type") != "BPE":
        raise ModelError(f"The tokenizer of {model.name} is {data['model'].get('type')!r}; GGUF is written for BPE.")
    settings = _json(model, "tokenizer_config.json")
    if data["model"].get("byte_fallback"):
        _add_sentencepiece(writer, data, int(model.config["vocab_size"]))
    else:
        _add_byte_level(writer, data, int(model.config["vocab_size"]))
    for name, key in SPECIAL.items():
        token = model.config.get(key)
        if token is not None:
            getattr(writer, f"add_{name}_token_id")(token[0] if isinstance(token, list) else token)
    writer.add_add_bos_token(_adds_bos(data, settings))
    template = settings.get("chat_template")
    if "chat_template.jinja" in model.files:
        template = model.files["chat_template.jinja"].read_text(encoding="utf-8")
    if isinstance(template, str):
        writer.add_chat_template(template)


def pre_tokenizer(data: Mapping[str, Any]) -> str:
    """llama.cpp's name for the splitting of a byte-level tokenizer.

    Raises:
        ModelError: it is none of those known here.
    """
    pre = data.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    regex = "".join(str(step.get("pattern", {}).get("Regex", "")) for step in steps if step.get("type") == "Split")
    for typical, name in PATTERNS.items():
        if typical in regex:
            return name
    raise ModelError(f"The splitting of this tokenizer ({', '.join(map(str, kinds))}) has no name in GGUF known here.")


def _add_byte_level(writer: gguf.GGUFWriter, data: Mapping[str, Any], size: int) -> None:
    tokens, types = _tokens(data, size)
    merges = [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(data))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)


def _add_sentencepiece(writer: gguf.GGUFWriter, data: Mapping[str, Any], size: int) -> None:
    tokens, types = _tokens(data, size)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    # Earlier tokens are merged first: any falling scores say so.
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types(types)


def _tokens(data: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Text and type of every token, in order; what has no text is unused."""
    kinds = gguf.TokenType
    tokens, types = [f"[PAD{i}]" for i in range(size)], [int(kinds.UNUSED)] * size
    for text, at in data["model"]["vocab"].items():
        is_byte = len(text) == 6 and text.startswith("<0x") and data["model"].get("byte_fallback")
        tokens[at], types[at] = text, int(kinds.BYTE if is_byte else kinds.NORMAL)
    for added in data.get("added_tokens", ()):
        kind = kinds.CONTROL if added["special"] else kinds.USER_DEFINED
        tokens[added["id"]], types[added["id"]] = added["content"], int(kind)
    if (unknown := data["model"].get("unk_token")) in tokens and data["model"].get("byte_fallback"):
        types[tokens.index(unknown)] = int(kinds.UNKNOWN)
    return tokens, types


def _adds_bos(data: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a text begins with the first token: as the post-processor has it, or else the settings."""
    processor = data.get("post_processor") or {}
    steps = processor.get("processors", [processor])
    templates = [step for step in steps if step.get("type") == "TemplateProcessing"]
    if templates:
        return "SpecialToken" in templates[0]["single"][0]
    return bool(settings.get("add_bos_token", False))


def _json(model: Dense, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(model.files[name].read_text(encoding="utf-8")) if name in model.files else {}
    return found
