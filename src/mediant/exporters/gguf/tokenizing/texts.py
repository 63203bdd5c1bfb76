"""Texts on which two tokenizers are compared: many scripts, spaces, digits, signs, special tokens, the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import gguf

from mediant.exporters.gguf.tokenizing.byte_pairs import byte_letters
from mediant.exporters.gguf.tokenizing.vocabulary import Vocabulary

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    " leading space", "  two", "trailing ", "trailing  ", "a  b   c    d", "tab\tand\t\ttabs",
    "line\nline\n\nline\n\n\n",
    "\r\nwindows\r\n", " \n \n x", "x \n", "\n", " ", "   ", "\t", "a\u00a0b\u3000c",
    "I'm you're he'll we've don't I'd it's 'tis", "I'M YOU'RE HE'LL WE'VE DON'T I'D IT'S",
    "quickBrown FoxJumps HTMLParser iPhone McDonald camelCase", "ALL CAPS Title Case",
    "1 12 123 1234 12345 123456 1234567", "3.14 1,000,000 -5 +7 2\u00b2 \u00bd \u0663\u0664\u0665 v1.2.3",
    "a1b22c333d4444",
    "!?... --- ((a)) [b] {c} <d> /e/ \\f $5 50% a@b.c #x ^ ~ ` | & * = + _", "a/b//c /path/to/file.txt\n// comment",
    "def f(x):\n    return x**2  # square\n\n\tif x != 0: pass", "https://example.org/a?b=c&d=%20e",
    "Ünïcödé façade naïve Ærøskøbing straße ŁÓDŹ", "Ελληνικά κείμενο ΑΒΓ", "Быстрая коричневая лиса, ёж",
    "שלום עולם", "السلام عليكم، كيف؟", "नमस्ते दुनिया क्षत्रिय", "বাংলা লেখা", "สวัสดีชาวโลก", "ភាសាខ្មែរ",
    "你好，世界！我在工作。", "日本語のテキスト カタカナ ひらがな",
    "한국어 문장입니다",
    "መልካም ቀን", "ქართული ენა", "Tiếng Việt có dấu",
    "🙂 😀😀 👩‍👩‍👧 🇩🇪 👍🏽 ✅ → ≤ ∑ € £ ©", "\x01\x7f\u200b\ufeff", "a\u200db", "x\x1by",
)  # fmt: skip
DECOMPOSED = "e\u0301 A\u030a \u1112\u1161\u11ab"
SPECIAL = ("{0}", "a{0}b", "a {0} b", "{0}{0}", "{0}\n", " {0}", "{0} x")
MOST_SPECIAL, MOST_WORDS = 24, 96


def texts(vocabulary: Vocabulary, normalizes: bool) -> Iterator[str]:
    """Yields all texts for a vocabulary; `normalizes` leaves out what is not composed (NFC)."""
    yield ""
    yield from TEXTS
    if not normalizes:
        yield DECOMPOSED
    cut = (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED)
    special = [t for t, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind in cut]
    for token in _some(special, MOST_SPECIAL):
        yield from (form.format(token) if "{" not in token else token for form in SPECIAL)
    yield from _some(_words(vocabulary), MOST_WORDS)


def _words(vocabulary: Vocabulary) -> list[str]:
    """Returns the texts of the longer tokens; of byte-pair tokens only those that are whole characters."""
    normal = [t for t, k in zip(vocabulary.tokens, vocabulary.types, strict=True) if k == gguf.TokenType.NORMAL]
    if vocabulary.model != "gpt2":
        return [token.replace("\u2581", " ") for token in normal if len(token) > 2]
    byte_of = {letter: byte for byte, letter in byte_letters().items()}
    found = []
    for token in normal:
        if len(token) > 2 and all(letter in byte_of for letter in token):
            text = bytes(byte_of[letter] for letter in token).decode(errors="replace")
            if "\ufffd" not in text and "\0" not in text:
                found.append(text)
    return found


def _some(items: Sequence[str], most: int) -> list[str]:
    """Takes at most `most` of the items, evenly spread."""
    return [items[i * len(items) // most] for i in range(most)] if len(items) > most else list(items)
