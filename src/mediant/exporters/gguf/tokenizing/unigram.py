"""llama.cpp's `t5`: the most likely sequence of tokens, after the normalization that SentencePiece has precompiled."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

import gguf

from mediant.exporters.gguf.tokenizing.vocabulary import Vocabulary

SPACE = "\u2581".encode()
# What an unknown character costs beyond the least likely token.
PENALTY = 10.0


def unigram(vocabulary: Vocabulary) -> Callable[[str], list[int]]:
    """Returns the function from a text without special tokens to ids."""
    kinds = gguf.TokenType
    costs: dict[bytes, tuple[int, float]] = {}
    normal = []
    for i, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        score = (vocabulary.scores or [])[i]
        if kind == kinds.NORMAL:
            normal.append(score)
        if kind in (kinds.NORMAL, kinds.USER_DEFINED, kinds.UNUSED):
            costs[token.encode()] = (i, 0.0 if kind == kinds.USER_DEFINED else score)
    unknown = 2 if vocabulary.unknown is None else vocabulary.unknown
    unknown_score = min(normal, default=0.0) - PENALTY
    longest = max(map(len, costs), default=1)

    def tokenize(text: str) -> list[int]:
        data = _normalized(text, vocabulary)
        best: list[tuple[float, int, int]] = [(0.0, unknown, 0)] + [(-math.inf, unknown, 0)] * len(data)
        at = 0
        while at < len(data):
            width = _width(data[at])
            alone = False
            for end in range(at + 1, min(at + longest, len(data)) + 1):
                if (known := costs.get(data[at:end])) is not None:
                    alone |= end - at == width
                    _improve(best, at, end, known[0], known[1])
            if not alone:
                _improve(best, at, min(at + width, len(data)), unknown, unknown_score)
            at += width
        return _path(best, unknown)

    return tokenize


def _improve(best: list[tuple[float, int, int]], start: int, end: int, token: int, score: float) -> None:
    challenger = best[start][0] + score
    if challenger > best[end][0]:
        best[end] = (challenger, token, start)


def _path(best: list[tuple[float, int, int]], unknown: int) -> list[int]:
    """Returns tokens from the end back; neighbouring unknown ones are one."""
    found: list[int] = []
    at = len(best) - 1
    while at > 0:
        _, token, start = best[at]
        if not (token == unknown and found and found[-1] == unknown):
            found.append(token)
        at = start
    return found[::-1]


def _normalized(text: str, vocabulary: Vocabulary) -> bytes:
    prefix = vocabulary.add_space_prefix is True
    merge = vocabulary.remove_extra_whitespaces is True
    out = bytearray()
    prepended = in_word = False
    for byte in _mapped(text.encode(), vocabulary.charsmap):
        if byte != 0x20:
            if not in_word:
                in_word = True
                if (prefix and not prepended) or merge:
                    out += SPACE
                    prepended = True
            out.append(byte)
        else:
            in_word = False
            if not merge:
                out += SPACE
    return bytes(out)


def _mapped(data: bytes, charsmap: bytes | None) -> bytes:
    if not charsmap:
        return data
    (size,) = struct.unpack_from("<I", charsmap)
    nodes = struct.unpack_from(f"<{size // 4}I", charsmap, 4)
    replacements = charsmap[4 + size :]
    out, at = bytearray(), 0
    while at < len(data):
        length, offset = _longest(data, at, nodes)
        if length:
            out += replacements[offset : replacements.index(0, offset)]
            at += length
        else:
            width = _width(data[at])
            out += data[at : at + width]
            at += width
    return bytes(out)


def _longest(data: bytes, at: int, nodes: tuple[int, ...]) -> tuple[int, int]:
    """Returns the bytes of the longest prefix in the double array, and where its replacement is."""
    found = (0, 0)
    node = _base(nodes[0])
    for i in range(at, len(data)):
        node ^= data[i]
        if data[i] == 0 or node >= len(nodes) or nodes[node] & (1 << 31 | 0xFF) != data[i]:
            break
        leaf = nodes[node] >> 8 & 1
        node ^= _base(nodes[node])
        if leaf:
            found = (i - at + 1, nodes[node] & ((1 << 31) - 1))
    return found


def _base(node: int) -> int:
    return (node >> 10) << ((node & 1 << 9) >> 6)


def _width(byte: int) -> int:
    """Returns the bytes of the character that begins with this one."""
    return (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4)[byte >> 4]
