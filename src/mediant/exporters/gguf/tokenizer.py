"""The tokenizer of a model as GGUF has it, chosen by trial.

llama.cpp knows how to split text only by a name, and its kinds of tokenizers are not those of the tokenizers library.
So every way of llama.cpp that could fit is tried, by a reader of its own (`tokenizing/llama_tokenizer.py`), on texts of
many scripts, on special tokens and on the vocabulary itself. The first that gives the ids of the model's tokenizer is
written; if none does, the export is refused with the first difference.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
from tokenizers import Tokenizer as Pipeline

from mediant.errors import ExportError, ModelError
from mediant.exporters._dense import Dense
from mediant.exporters.gguf.tokenizing.byte_pairs import byte_letters
from mediant.exporters.gguf.tokenizing.candidates import candidates, steps
from mediant.exporters.gguf.tokenizing.llama_tokenizer import LlamaTokenizer
from mediant.exporters.gguf.tokenizing.splitting import RULES, split
from mediant.exporters.gguf.tokenizing.texts import TEXTS, texts
from mediant.exporters.gguf.tokenizing.vocabulary import Vocabulary, read
from mediant.models.reference import load_tokenizer
from mediant.models.special_tokens import SpecialTokens, special_tokens
from mediant.models.tokenizer import DEFAULT, open_tokenizer
from mediant.progress import Progress


@dataclasses.dataclass(frozen=True)
class Own:
    """The model's tokenizer, as transformers makes it. `data` is its pipeline."""

    tokenizer: Any
    data: Mapping[str, Any]
    special: SpecialTokens

    def ids(self, text: str, around: bool = True) -> list[int]:
        """Returns token ids of a text, with what begins and ends it."""
        return [int(i) for i in self.tokenizer(text, add_special_tokens=around, verbose=False)["input_ids"]]

    @property
    def normalizes(self) -> bool:
        """All that is done to text before is to compose its characters (NFC), which most text is already."""
        return [step["type"] for step in steps(self.data.get("normalizer"), "normalizers")] == ["NFC"]


def chosen(model: Dense, progress: Progress) -> Vocabulary:
    """Returns the first vocabulary with which llama.cpp gives the ids of the model's tokenizer.

    Raises:
        ModelError: none does, naming the first text that differs; or there is no tokenizer of a kind that it knows.
    """
    own = _own(model)
    nearest, reason = -1, ""
    for vocabulary in candidates(own.data, int(model.config["vocab_size"])):
        if vocabulary.model == "gpt2" and (split_wrong := _splits_otherwise(own.data, vocabulary.pre)) is not None:
            # The rule that goes furthest is the one that was meant.
            nearest, reason = max((nearest, reason), split_wrong, key=lambda found: found[0])
            continue
        complete = _with_special(vocabulary, own)
        wrong = difference(LlamaTokenizer(complete, model.name), own, texts(complete, own.normalizes))
        if wrong is None:
            if own.normalizes:
                progress.say("llama.cpp does not compose characters (NFC) first, as this model's tokenizer does.")
            return complete
        nearest, reason = len(TEXTS), wrong
    raise ModelError(f"The tokenizer of {model.name} cannot be said in GGUF: {reason}.")


def difference(tokenizer: LlamaTokenizer, own: Own, compared: Any) -> str | None:
    """Returns the first of some texts that the two read differently, as part of a sentence; None where there is
    none.
    """
    for text in compared:
        expected, found = own.ids(text), tokenizer(text)
        if expected != found:
            return f"llama.cpp would read {text!r} as {_short(found)}, and it is {_short(expected)}"
    return None


def add_tokenizer(writer: gguf.GGUFWriter, model: Dense, vocabulary: Vocabulary) -> None:
    """Writes a vocabulary, and the chat templates."""
    vocabulary.write(writer)
    templates = open_tokenizer(model.folder).settings.templates
    if set(templates) == {DEFAULT}:
        writer.add_chat_template(templates[DEFAULT])
    elif templates:
        writer.add_chat_template([{"name": name, "template": text} for name, text in templates.items()])


def check_written(file: Path, vocabulary: Vocabulary) -> None:
    """Refuses a file that does not say what the vocabulary that was compared says.

    Raises:
        ExportError: it says something else.
    """
    written, _ = read(file)
    for field in dataclasses.fields(Vocabulary):
        if getattr(written, field.name) != getattr(vocabulary, field.name):
            raise ExportError(f"The tokenizer's {field.name!r} does not read back as it was written; nothing was kept.")


def _own(model: Dense) -> Own:
    tokenizer = load_tokenizer(model.folder)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"The tokenizer of {model.name} is Python code of its own, which GGUF cannot hold.")
    return Own(tokenizer, json.loads(backend.to_str()), special_tokens(model.folder))


def _with_special(vocabulary: Vocabulary, own: Own) -> Vocabulary:
    """With ids of special tokens, and with what begins and ends a text, as the tokenizer does it."""
    bare, whole = own.ids("a", around=False), own.ids("a")
    starts = [i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare]
    before = whole[: starts[0]] if starts else []
    after = whole[starts[0] + len(bare) :] if starts else []
    found = dataclasses.replace(
        vocabulary,
        bos=before[0] if before else own.special.begin,
        eos=after[-1] if after and vocabulary.model != "bert" else own.special.end,
        padding=own.special.padding,
        add_bos=bool(before),
        add_eos=bool(after) and vocabulary.model != "bert",
        unknown=own.tokenizer.unk_token_id if vocabulary.unknown is None else vocabulary.unknown,
    )
    return (
        dataclasses.replace(found, separator=after[0], add_sep=True) if vocabulary.model == "bert" and after else found
    )


def _splits_otherwise(data: Mapping[str, Any], name: str) -> tuple[int, str] | None:
    """Returns the first text that llama.cpp's rule of that name splits differently: its place, and a part of a
    sentence.
    """
    rule = next(rule for rule in RULES if rule.name == name)
    letters = byte_letters()
    splitter = Pipeline.from_str(json.dumps(data)).pre_tokenizer
    for at, text in enumerate(TEXTS):
        expected = [piece for piece, _ in splitter.pre_tokenize_str(text)]
        found = ["".join(letters[byte] for byte in piece.encode()) for piece in split(text, rule)]
        if expected != found:
            return at, f"llama.cpp has no rule that splits {text!r} into {_short(expected)}"
    return None


def _short(items: Sequence[object]) -> str:
    return f"{list(items[:12])}" if len(items) <= 12 else f"{str(list(items[:12]))[:-1]}, ...]"
