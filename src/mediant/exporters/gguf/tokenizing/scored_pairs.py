"""llama.cpp's `llama`: neighbours that make up a token are merged, highest score first; the rest is given in bytes."""

from __future__ import annotations

from collections.abc import Callable

from mediant.exporters.gguf.tokenizing.byte_pairs import merged
from mediant.exporters.gguf.tokenizing.vocabulary import Vocabulary

SPACE = "\u2581"


def scored_pairs(vocabulary: Vocabulary) -> Callable[[str], list[int]]:
    """Returns the function from a text without special tokens, its first space added, to ids."""
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    scores = vocabulary.scores or [0.0] * len(ids)

    def rank(pair: tuple[str, str]) -> float | None:
        token = ids.get("".join(pair))
        return None if token is None else -scores[token]

    def tokenize(text: str) -> list[int]:
        found: list[int] = []
        for part in merged(list(text.replace(" ", SPACE)), rank):
            found += [ids[part]] if part in ids else [ids.get(f"<0x{byte:02X}>", -1) for byte in part.encode()]
        return found

    return tokenize
