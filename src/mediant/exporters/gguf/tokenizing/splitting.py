r"""How llama.cpp splits text before byte-pair merges: by rules that it knows by name.

A rule is a list of regular expressions, each applied within the pieces that the one before left; what an expression
does not match stays a piece of its own. Expressions with classes such as `\p{L}` see a text in which every character
beyond ASCII is replaced by one letter for its class, and whitespace by a vertical tab (`unicode_regex_split` in
llama.cpp's `unicode.cpp`); all others see the characters. `\s` and `\d` are ASCII's.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from dataclasses import dataclass
from functools import cache

# Characters that stand for a class, and the ASCII characters in it.
CLASSES = {
    "N": ("\xd1", "0-9"),
    "L": ("\xd2", "A-Za-z"),
    "P": ("\xd3", r"!-#%-*,-/:;?@\[-\]_{}"),
    "M": ("\xd4", ""),
    "S": ("\xd5", r"$+<=>^`|~"),
}
NO_CLASS = "\xd0"
WHITESPACE = frozenset("\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B))))
# One pattern of a class, which may be followed by a kind of it that llama.cpp does not tell apart.
CLASS = re.compile(r"\\p\{([LNPMS])[a-z]?\}")

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
SHORT = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"((?=[\p{L}])([^a-z]))", r"((?=[\p{L}])([^A-Z]))"
FIRST = r"[^\r\n\p{L}\p{N}]?"
SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
SHORTER = r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])"
NEWLINE = r"\s*[\r\n]|\s+(?!\S)|\s+"
WORDS = r"(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+"
WIDE_PUNCTUATION = r" ?[^(\s|.,!?…。，、।۔،)]+"
SIGN_WORD = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
HALVING = "|".join(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4)) + r"|\s{1,2}(?!\S)|\s{1}"


def _llama3(digits: str, marks: str = MARKS, spaces: str = SPACES, word: str = WORD) -> str:
    return f"{SHORT}|{word}|{digits}|{marks}|{spaces}"


def _cased(digits: str, short: str) -> str:
    one, other = f"{FIRST}{UPPER}*{LOWER}+{short}", f"{FIRST}{UPPER}+{LOWER}*{short}"
    return f"{one}|{other}|{digits}|{SLASHES}|{SPACES}"


@dataclass(frozen=True)
class Rule:
    """A rule by its name in files. With `whole_words`, a piece that is a token is taken before any merge."""

    name: str
    expressions: tuple[str, ...]
    whole_words: bool = False


# Where several names mean the same, the one that llama.cpp has known longest.
RULES = (
    Rule("gpt-2", (GPT2,)),
    Rule("smollm", (r"\p{N}", GPT2)),
    Rule("llama-bpe", (_llama3(r"\p{N}{1,3}"),), whole_words=True),
    Rule("dbrx", (_llama3(r"\p{N}{1,3}"),)),
    Rule("qwen2", (_llama3(r"\p{N}"),)),
    Rule("tekken", (_cased(r"\p{N}", ""),), whole_words=True),
    Rule("gpt-4o", (_cased(r"\p{N}{1,3}", f"{SHORT}?"),)),
    Rule("falcon", (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]")),
    Rule("deepseek-coder", (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")),
    Rule("deepseek-v3", (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", rf"{SIGN_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{SPACES}")),
    Rule("bloom", (WIDE_PUNCTUATION,)),
    Rule("viking", (WIDE_PUNCTUATION, r"\p{N}")),
    Rule("default", (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    Rule("superbpe", (r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    Rule("bailingmoe", (rf"{SHORTER}|{WORD}|\p{{N}}|{MARKS}|{NEWLINE}",)),
    Rule("seed-coder", (_llama3(r"\p{N}{1}", r" ?[^\s\p{L}\p{N}\r\n]+"),)),
    Rule("jais-2", (_llama3(r"\p{N}{1,3}", spaces=rf"\s*[\r\n]+|{HALVING}"),)),
    Rule("exaone-moe", (_llama3(r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n/]?", NEWLINE, FIRST + WORDS),)),
    Rule("qwen35", (_llama3(r"\p{N}", r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", word=FIRST + r"[\p{L}\p{M}]+"),)),
    Rule("minicpm5", (r"\p{N}{1,3}", _llama3(r"\p{N}+")), whole_words=True),
)  # fmt: skip


def split(text: str, rule: Rule) -> list[str]:
    """Returns the pieces that `rule` makes of a text.

    >>> split("I'm 1234", RULES[0])
    ['I', "'m", ' 1234']
    """
    collapsed = "".join(map(_collapsed, text))
    plain = "".join("\v" if char in WHITESPACE else char for char in text)
    lengths = [len(text)]
    for expression in rule.expressions:
        seen = collapsed if CLASS.search(expression) else plain
        lengths = _split(seen, _compiled(expression), lengths)
    pieces, start = [], 0
    for length in lengths:
        pieces.append(text[start : start + length])
        start += length
    return [piece for piece in pieces if piece]


def _split(text: str, expression: re.Pattern[str], lengths: list[int]) -> list[int]:
    found, start = [], 0
    for length in lengths:
        piece, done = text[start : start + length], 0
        for match in expression.finditer(piece):
            found += [match.start() - done, match.end() - match.start()]
            done = match.end()
        found.append(length - done)
        start += length
    return [length for length in found if length]


@cache
def _collapsed(char: str) -> str:
    if char < "\x80":
        return char
    if char in WHITESPACE:
        return "\v"
    return CLASSES.get(unicodedata.category(char)[0], (NO_CLASS, ""))[0]


@cache
def _compiled(expression: str) -> re.Pattern[str]:
    parts, inside = [], False
    for token in re.findall(r"\\p\{\w+\}|\\.|.", expression, re.DOTALL):
        if found := CLASS.fullmatch(token):
            members = "".join(CLASSES[found[1]])
            parts.append(members if inside else f"[{members}]")
            continue
        inside = token == "[" or (inside and token != "]")
        parts.append(token)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of characters that may mean something in a later Python
        return re.compile("".join(parts), re.ASCII)
