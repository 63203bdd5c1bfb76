"""Tokenizes as llama.cpp does with what a GGUF file says: a reader of its own, to compare with the model's tokenizer.

After `llama-vocab.cpp` of llama.cpp: special tokens are cut out first, longest first; what is between them goes to the
file's kind of tokenizer. It is written for comparing short texts, not for speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gguf

from mediant.exporters.gguf.tokenizing.byte_pairs import byte_pairs
from mediant.exporters.gguf.tokenizing.scored_pairs import scored_pairs
from mediant.exporters.gguf.tokenizing.unigram import unigram
from mediant.exporters.gguf.tokenizing.vocabulary import Vocabulary
from mediant.exporters.gguf.tokenizing.word_pieces import word_pieces

Tokenize = Callable[[str], list[int]]
KINDS: dict[str, Callable[[Vocabulary], Tokenize]] = {
    "gpt2": byte_pairs,
    "llama": scored_pairs,
    "t5": unigram,
    "bert": word_pieces,
}
CUT = (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED, gguf.TokenType.UNKNOWN)
# Special tokens of models of these names swallow the spaces after them, but for some.
PHI3 = ("phi-3", "phi3")
NOT_STRIPPED = ("<unk>", "<s>", "<|endoftext|>")


class LlamaTokenizer:
    """The tokenizer of a file. `name` is the model's name in it."""

    def __init__(self, vocabulary: Vocabulary, name: str = ""):
        self._vocabulary = vocabulary
        self._pieces = KINDS[vocabulary.model](vocabulary)
        special = [i for i, kind in enumerate(vocabulary.types) if kind in CUT]
        # llama.cpp's sort need not be stable; tokens of one length never overlap another way.
        self._special = sorted(special, key=lambda i: -len(vocabulary.tokens[i].encode()))
        strips = any(part in name.lower() for part in PHI3)
        self._strips = {i for i in special if strips and vocabulary.tokens[i] not in NOT_STRIPPED}

    def __call__(self, text: str) -> list[int]:
        """Returns the ids of a text with the tokens that begin and end it; special tokens in it are found."""
        v = self._vocabulary
        found: list[int] = []
        after_special = True
        for fragment in self._fragments(text):
            if isinstance(fragment, int):
                found.append(fragment)
            else:
                prefix = " " if v.model == "llama" and v.add_space_prefix is not False and after_special else ""
                found += self._pieces(prefix + fragment)
            after_special = isinstance(fragment, int)
        return [*self._first(), *found, *self._last()]

    def _first(self) -> list[int]:
        v = self._vocabulary
        usual = {"llama": True, "gpt2": v.pre in ("llama-bpe", "tekken"), "t5": False, "bert": True}[v.model]
        return [_known(v.bos)] if v.model == "bert" or (usual if v.add_bos is None else v.add_bos) else []

    def _last(self) -> list[int]:
        v = self._vocabulary
        if v.model == "bert":
            return [_known(v.separator)]
        return [_known(v.eos)] if (v.model == "t5" if v.add_eos is None else v.add_eos) else []

    def _fragments(self, text: str) -> Iterator[int | str]:
        fragments: list[int | str] = [text] if text else []
        for token in self._special:
            if self._vocabulary.tokens[token] in text:
                fragments = [part for f in fragments for part in self._cut(f, token)]
        yield from fragments

    def _cut(self, fragment: int | str, token: int) -> list[int | str]:
        if isinstance(fragment, int):
            return [fragment]
        pieces = fragment.split(self._vocabulary.tokens[token])
        if token in self._strips:
            pieces = [pieces[0], *(piece.lstrip(" \t\n\v\f\r") for piece in pieces[1:])]
        parts: list[int | str] = [pieces[0]]
        for piece in pieces[1:]:
            parts += [token, piece]
        return [part for part in parts if part != ""]


def _known(token: int | None) -> int:
    return -1 if token is None else token
