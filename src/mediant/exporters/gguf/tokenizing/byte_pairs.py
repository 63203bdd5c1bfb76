"""llama.cpp's `gpt2`: pieces by rule, bytes as letters, then merges in the order of their list."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from mediant.exporters.gguf.tokenizing.splitting import RULES, split
from mediant.exporters.gguf.tokenizing.vocabulary import Vocabulary


def byte_letters() -> dict[int, str]:
    """Returns the letter that stands for each byte, GPT-2's `bytes_to_unicode`."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def byte_pairs(vocabulary: Vocabulary) -> Callable[[str], list[int]]:
    """Returns the function from a text without special tokens to ids."""
    rule = next(rule for rule in RULES if rule.name == vocabulary.pre)
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    letters = byte_letters()
    ranks: dict[tuple[str, str], int] = {}
    for rank, merge in enumerate(vocabulary.merges or ()):
        at = merge.find(" ", 1)
        ranks.setdefault((merge[:at], merge[at + 1 :]) if at > 0 else ("", ""), rank)

    def tokenize(text: str) -> list[int]:
        found: list[int] = []
        for piece in split(text, rule):
            word = "".join(letters[byte] for byte in piece.encode())
            whole = rule.whole_words and word in ids
            for part in [word] if whole else merged(list(word), ranks.get):
                # A part that is no token is given byte by byte, and bytes that are none are dropped.
                found += [ids[p] for p in ([part] if part in ids else part) if p in ids]
        return found

    return tokenize


def merged(parts: list[str], rank: Callable[[tuple[str, str]], float | None]) -> list[str]:
    """Parts after all merges, lowest rank first, leftmost first among equals.

    >>> merged(list("aab"), {("a", "a"): 1, ("a", "b"): 0}.get)
    ['a', 'ab']
    """
    after = [*range(1, len(parts)), -1]
    before = list(range(-1, len(parts) - 1))
    queue: list[tuple[float, int, int, str]] = []

    def add(left: int, right: int) -> None:
        if left >= 0 and right >= 0 and (found := rank((parts[left], parts[right]))) is not None:
            heapq.heappush(queue, (found, left, right, parts[left] + parts[right]))

    for left in range(len(parts) - 1):
        add(left, left + 1)
    while queue:
        _, left, right, text = heapq.heappop(queue)
        if not parts[left] or not parts[right] or parts[left] + parts[right] != text:
            continue
        parts[left], parts[right] = text, ""
        after[left] = after[right]
        if after[right] >= 0:
            before[after[right]] = left
        add(before[left], left)
        add(left, after[left])
    return [part for part in parts if part]
