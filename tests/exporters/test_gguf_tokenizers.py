"""Thirty kinds of tokenizers: what is written gives the same ids, or the export is refused with the reason."""

from __future__ import annotations

import json
import types

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mediant.errors import ModelError
from mediant.exporters.gguf import tokenizer as exported
from mediant.exporters.gguf.tokenizing.llama_tokenizer import LlamaTokenizer
from mediant.models.special_tokens import SpecialTokens
from mediant.progress import SILENT

TRAINING = [
    "the quick brown fox jumps over the lazy dog and it's 12345 angry bees, don't they? quickBrownFox HTMLParser\n\n",
    "  def f(x):\n    return x**2  # 3.14 und Ünïcödé façade слово слова 你好世界 नमस्ते    \n",
] * 20
CASES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
ENDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CASES + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + ENDS
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + ENDS
)
GPT4O = CASED.replace("+|[^\\r", f"+{CASES}?|[^\\r").replace("*|\\p{N}", f"*{CASES}?|\\p{{N}}")
SEED_CODER = LLAMA3.replace("{1,3}", "{1}").replace("\\p{N}]+[\\r\\n]*", "\\p{N}\\r\\n]+")
WIDE = r" ?[^(\s|.,!?…。，、।۔،)]+"
DEEPSEEK_WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|" + ENDS
)


def regexes(*given):
    """Splits by regular expressions, then bytes as letters."""
    splits = [pre_tokenizers.Split(Regex(regex), "isolated") for regex in given]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level(pre, normalizer=None, post=None, **settings):
    bare = Tokenizer(models.BPE(**settings))
    bare.pre_tokenizer, bare.decoder = pre, decoders.ByteLevel()
    if normalizer is not None:
        bare.normalizer = normalizer
    if post is not None:
        bare.post_processor = post
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bare.train_from_iterator(
        TRAINING,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return bare


def gpt2(prefix=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix)


def digits(each):
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=each), gpt2()])


def falcon():
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            pre_tokenizers.Digits(individual_digits=False),
        ]
    )


def begins():
    return processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])


def both():
    return processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])


def sentencepiece(scheme):
    """Byte fallback; every split of a token into two is a merge, the more of the alphabet the later."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = ["▁the", "▁quick", "▁fox", "er", "▁1", "▁▁", "▁▁▁▁"]
    parts = sorted({w[i:j] for w in words for i in range(len(w)) for j in range(i + 1, len(w) + 1)}, key=len)
    pieces += [part for part in [*map(chr, range(33, 127)), *parts] if part not in pieces]
    pieces = list(dict.fromkeys(pieces))
    ids = {piece: i for i, piece in enumerate(pieces)}
    merges = [
        (p[:i], p[i:]) for p in sorted(parts, key=ids.get) for i in range(1, len(p)) if p[:i] in ids and p[i:] in ids
    ]
    bare = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if scheme == "legacy":
        bare.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        bare.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    bare.add_special_tokens(["<unk>", "<s>", "</s>"])
    bare.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return bare


def unigram(scheme="always"):
    bare = Tokenizer(models.Unigram())
    bare.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    bare.train_from_iterator(TRAINING, trainer)
    bare.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return bare


def word_pieces(lowercase=True, accents=None):
    bare = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    bare.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=accents)
    bare.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    bare.train_from_iterator(
        TRAINING, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    bare.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return bare


def with_added(bare, *added, special=False):
    (bare.add_special_tokens if special else bare.add_tokens)(list(added))
    return bare


def stripping(bare):
    from tokenizers import AddedToken

    bare.add_tokens([AddedToken("<mark>", rstrip=True)])
    return bare


# What llama.cpp's name must be, or None where the export must be refused.
KINDS = {
    "gpt-2": (lambda: byte_level(gpt2()), "gpt-2"),
    "gpt-2, begins": (lambda: byte_level(gpt2(), post=begins()), "gpt-2"),
    "gpt-2, begins and ends": (lambda: byte_level(gpt2(), post=both()), "gpt-2"),
    "gpt-2, prefix space": (lambda: byte_level(gpt2(prefix=True)), None),
    "gpt-2, composed first": (lambda: byte_level(gpt2(), normalizers.NFC()), "gpt-2"),
    "gpt-2, NFKC": (lambda: byte_level(gpt2(), normalizers.NFKC()), None),
    "gpt-2, lowercase": (lambda: byte_level(gpt2(), normalizers.Lowercase()), None),
    "gpt-2, added tokens": (lambda: with_added(byte_level(gpt2()), "<tool>", "    "), "gpt-2"),
    "gpt-2, added special": (lambda: with_added(byte_level(gpt2()), "<|im_start|>", special=True), "gpt-2"),
    "gpt-2, a token that strips": (lambda: stripping(byte_level(gpt2())), None),
    "no rule": (lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)), None),
    "smollm": (lambda: byte_level(digits(True)), "smollm"),
    "all digits together": (lambda: byte_level(digits(False)), None),
    "falcon-like": (lambda: byte_level(falcon()), None),
    "llama 3": (lambda: byte_level(regexes(LLAMA3)), "dbrx"),
    "llama 3, whole words": (lambda: byte_level(regexes(LLAMA3), ignore_merges=True), "llama-bpe"),
    "qwen 2": (lambda: byte_level(regexes(LLAMA3.replace("{1,3}", ""))), "qwen2"),
    # llama.cpp's version of these two knows no case beyond ASCII, and no combining marks in words.
    "tekken": (lambda: byte_level(regexes(CASED.replace("{1,3}", ""))), None),
    "gpt-4o": (lambda: byte_level(regexes(GPT4O)), None),
    "gpt-4o without contractions": (lambda: byte_level(regexes(CASED)), None),
    "deepseek 3": (lambda: byte_level(regexes(r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_WORDS)), "deepseek-v3"),
    "bloom": (lambda: byte_level(regexes(WIDE)), "bloom"),
    "viking": (lambda: byte_level(regexes(WIDE, r"\p{N}")), "viking"),
    "seed coder": (lambda: byte_level(regexes(SEED_CODER)), "seed-coder"),
    "byte fallback, prefix": (lambda: sentencepiece("legacy"), "llama"),
    "byte fallback, no prefix": (lambda: sentencepiece("never"), "llama"),
    "byte fallback, prefix at the start alone": (lambda: sentencepiece("first"), None),
    "unigram": (unigram, None),
    "unigram, no prefix": (lambda: unigram("never"), "t5"),
    "word pieces": (word_pieces, "bert"),
    "word pieces, cased": (lambda: word_pieces(False, False), "bert"),
}  # fmt: skip


def own(bare):
    special = SpecialTokens(begin=None, end=1, padding=None, ends=frozenset([1]), begins=False)
    return exported.Own(PreTrainedTokenizerFast(tokenizer_object=bare), json.loads(bare.to_str()), special)


def model(bare):
    return types.SimpleNamespace(name="tiny", config={"vocab_size": bare.get_vocab_size() + 3})


@pytest.mark.parametrize("kind", KINDS)
def test_ids_agree_or_the_reason_is_given(kind, monkeypatch):
    make, name = KINDS[kind]
    bare = make()
    monkeypatch.setattr(exported, "_own", lambda _: own(bare))
    if name is None:
        with pytest.raises(ModelError, match=r"cannot be said in GGUF: llama.cpp"):
            exported.chosen(model(bare), SILENT)
        return
    found = exported.chosen(model(bare), SILENT)
    assert name in (found.pre, found.model)
    text = "don't stop: 12345 foxes  jumped\n\n over Ünïcödé 你好 <s> 🙂"
    assert LlamaTokenizer(found)(text) == own(bare).ids(text)
