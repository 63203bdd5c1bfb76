"""What a GGUF file could say of a tokenizer: one vocabulary for each way of llama.cpp that may give the same ids."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import gguf
import numpy as np

from mediant.errors import ModelError
from mediant.exporters.gguf.tokenizing.splitting import RULES
from mediant.exporters.gguf.tokenizing.vocabulary import Vocabulary

Kind = gguf.TokenType
SPACE = "\u2581"


def candidates(data: Mapping[str, Any], size: int) -> Iterator[Vocabulary]:
    """Vocabularies for the pipeline in a `tokenizer.json`, the likeliest first, without ids of special tokens.

    Args:
        data: what the file says.
        size: tokens that the model has rows for.

    Raises:
        ModelError: llama.cpp has no tokenizer of this kind, or there are more tokens than rows.
    """
    kind = data["model"].get("type")
    if kind == "BPE" and _is_byte_level(data):
        yield from _byte_pairs(data, size)
    elif kind == "BPE":
        yield from _scored_pairs(data, size)
    elif kind == "Unigram":
        yield from _unigram(data, size)
    elif kind == "WordPiece":
        yield _word_pieces(data, size)
    else:
        raise ModelError(f"llama.cpp has no tokenizer of the kind {kind!r}.")


def steps(part: Mapping[str, Any] | None, inside: str) -> list[Mapping[str, Any]]:
    """Returns the steps of a normalizer or pre-tokenizer, those of sequences one by one."""
    if not part:
        return []
    return [s for inner in part[inside] for s in steps(inner, inside)] if part.get("type") == "Sequence" else [part]


def _is_byte_level(data: Mapping[str, Any]) -> bool:
    return any(step["type"] == "ByteLevel" for step in steps(data.get("pre_tokenizer"), "pretokenizers"))


def _byte_pairs(data: Mapping[str, Any], size: int) -> Iterator[Vocabulary]:
    tokens, types = _tokens(data, data["model"]["vocab"], size)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]]
    whole = bool(data["model"].get("ignore_merges"))
    for rule in sorted(RULES, key=lambda rule: rule.whole_words != whole):
        yield Vocabulary("gpt2", tokens, types, rule.name, merges=merges)


def _scored_pairs(data: Mapping[str, Any], size: int) -> Iterator[Vocabulary]:
    """Scores fall in the order of merges, so that llama.cpp merges in that order too."""
    vocab = data["model"]["vocab"]
    tokens, types = _tokens(data, vocab, size)
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in data["model"]["merges"]]
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(pairs):
        ranks.setdefault("".join(pair), rank)
    scores = [-float(ranks.get(token, len(ranks))) for token in tokens]
    for prefix in (True, False):
        yield Vocabulary("llama", tokens, types, scores=scores, add_space_prefix=prefix)


def _unigram(data: Mapping[str, Any], size: int) -> Iterator[Vocabulary]:
    pieces = data["model"]["vocab"]
    tokens, types = _tokens(data, {piece: at for at, (piece, _) in enumerate(pieces)}, size)
    scores = [float(np.float32(score)) for _, score in pieces] + [0.0] * (size - len(pieces))
    maps = [
        s["precompiled_charsmap"] for s in steps(data.get("normalizer"), "normalizers") if s["type"] == "Precompiled"
    ]
    plain = Vocabulary(
        "t5",
        tokens,
        types,
        scores=scores,
        unknown=data["model"].get("unk_id"),
        charsmap=base64.b64decode(maps[0]) if maps and maps[0] else None,
    )
    for prefix in (True, False):
        for merge in (True, False):
            yield dataclasses.replace(plain, add_space_prefix=prefix, remove_extra_whitespaces=merge)


def _word_pieces(data: Mapping[str, Any], size: int) -> Vocabulary:
    """Pieces that begin a word are marked in llama.cpp, not those that go on."""
    model = data["model"]
    tokens, types = _tokens(data, model["vocab"], size)
    prefix = model.get("continuing_subword_prefix", "##")
    marked = [_marked(token, kind, prefix) for token, kind in zip(tokens, types, strict=True)]
    lower = any(
        s["type"] == "Lowercase" or (s["type"] == "BertNormalizer" and s.get("lowercase"))
        for s in steps(data.get("normalizer"), "normalizers")
    )
    accents = next(
        (
            s["strip_accents"]
            for s in steps(data.get("normalizer"), "normalizers")
            if s.get("strip_accents") is not None
        ),
        lower,
    )
    unknown = model["vocab"].get(model.get("unk_token"))
    _check_different(marked)
    return Vocabulary("bert", marked, types, unknown=unknown, lowercase=lower, strip_accents=accents)


def _marked(token: str, kind: int, prefix: str) -> str:
    if kind != Kind.NORMAL:
        return token
    return token.removeprefix(prefix) if token.startswith(prefix) and token != prefix else SPACE + token


def _tokens(data: Mapping[str, Any], vocab: Mapping[str, int], size: int) -> tuple[list[str], list[int]]:
    """Text and type of every token, in order; rows without a token have a name of their own."""
    model = data["model"]
    added = {token["id"]: token for token in data.get("added_tokens", ())}
    highest = max([*vocab.values(), *added], default=-1)
    if highest >= size:
        raise ModelError(f"The tokenizer has the id {highest}, but the model has the tokens 0 to {size - 1} alone.")
    texts: dict[int, str] = {at: text for text, at in vocab.items()} | {at: t["content"] for at, t in added.items()}
    taken = set(texts.values())
    tokens, types = [], []
    for at in range(size):
        tokens.append(texts.get(at) or _free(f"[PAD{at}]", taken))
        if at in added:
            types.append(int(Kind.CONTROL if added[at]["special"] else Kind.USER_DEFINED))
        elif at not in texts:
            types.append(int(Kind.UNUSED))
        else:
            types.append(int(Kind.BYTE if model.get("byte_fallback") and _is_byte(texts[at]) else Kind.NORMAL))
    unknown = model.get("unk_id") if model["type"] == "Unigram" else vocab.get(model.get("unk_token") or "")
    if unknown is not None and (model["type"] == "Unigram" or model.get("byte_fallback")):
        types[unknown] = int(Kind.UNKNOWN)
    _check_different(tokens)
    return tokens, types


def _check_different(tokens: list[str]) -> None:
    if len(set(tokens)) != len(tokens):
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise ModelError(f"Two tokens would be written {twice!r}, and llama.cpp refuses a file with two of one text.")


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"[{name}]"
    return name


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")
