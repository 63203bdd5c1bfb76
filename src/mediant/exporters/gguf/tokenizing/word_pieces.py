"""llama.cpp's `bert`: words by spaces and punctuation, each cut into the longest pieces from its start."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from mediant.exporters.gguf.tokenizing.splitting import WHITESPACE
from mediant.exporters.gguf.tokenizing.vocabulary import Vocabulary

START = "\u2581"
CHINESE = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


def word_pieces(vocabulary: Vocabulary) -> Callable[[str], list[int]]:
    """Returns the function from a text without special tokens to ids."""
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    unknown = 100 if vocabulary.unknown is None else vocabulary.unknown
    longest = max(map(len, ids), default=1)

    def tokenize(text: str) -> list[int]:
        return [
            token for word in _words(text, vocabulary) for token in _pieces(START + word, ids, longest) or [unknown]
        ]

    return tokenize


def _pieces(word: str, ids: dict[str, int], longest: int) -> list[int]:
    """Returns the pieces of a word; none where a part of it is no piece."""
    found, at = [], 0
    while at < len(word):
        ends = (end for end in range(min(len(word), at + longest), at, -1) if word[at:end] in ids)
        end = next(ends, None)
        if end is None:
            return []
        found.append(ids[word[at:end]])
        at = end
    return found


def _words(text: str, vocabulary: Vocabulary) -> list[str]:
    strips = vocabulary.strip_accents
    words = [""]
    for char in map(_base, text) if strips else text:
        category = unicodedata.category(char)
        if char in " \t\n\v\f\r" or char in WHITESPACE:
            words.append("")
        elif char in "\0\ufffd" or (category[0] == "C" and category != "Cn") or (strips and category[0] == "M"):
            continue
        elif category[0] == "P" or (char < "\x7f" and category[0] == "S") or _is_chinese(ord(char)):
            words += [_lower(char, vocabulary), ""]
        else:
            words[-1] += _lower(char, vocabulary)
    return [word for word in words if word]


def _base(char: str) -> str:
    """Returns the first character of its decomposition, which is all that llama.cpp keeps."""
    return unicodedata.normalize("NFD", char)[0]


def _lower(char: str, vocabulary: Vocabulary) -> str:
    lowered = char.lower() if vocabulary.lowercase else char
    return lowered if len(lowered) == 1 else char


def _is_chinese(point: int) -> bool:
    return any(first <= point <= last for first, last in CHINESE)
