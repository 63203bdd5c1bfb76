"""The tokenizer of a model, by the tokenizers library alone wherever that gives what transformers gives.

`tokenizer.json` is not all: transformers rebuilds the pipeline in it for some classes, and takes special tokens,
clean-up and chat templates from other files. So what transformers makes of the files is asked once and remembered: in
the seal of a compressed model's `config.json` if `tokenizer.json` is the whole pipeline, else in the cache folder by
content. A tokenizer that is Python code of transformers is left to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer as Pipeline

from mediant import files
from mediant.errors import ModelError, UsageError
from mediant.models import configuration
from mediant.models.chat_template import Message, render
from mediant.models.folder import read_config

PIPELINE = "tokenizer.json"
# The files that a tokenizer may be made of.
FILES = (
    PIPELINE, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tekken.json",
)  # fmt: skip
TEMPLATE, TEMPLATES = "chat_template.jinja", "additional_chat_templates"
DEFAULT = "default"
# Clean-up as transformers has it: these without their first space.
SPACED = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")


@dataclass(frozen=True)
class Settings:
    """What transformers knows of a tokenizer beside its pipeline.

    Attributes:
        special: special tokens by name, such as `eos_token`.
        clean_up: spaces before punctuation are taken out of decoded text.
        templates: chat templates by name.
    """

    special: Mapping[str, str] = field(default_factory=dict)
    clean_up: bool = False
    templates: Mapping[str, str] = field(default_factory=dict)


class Tokenizer(Protocol):
    """Text to token ids and back."""

    settings: Settings

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Returns token ids of a text, with those that the model wants around it if asked for."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Returns the text of token ids."""

    def token_id(self, token: str) -> int | None:
        """Returns the id of a token; None where there is no such token."""

    def token(self, id: int) -> str | None:
        """Returns the token of an id; None where there is no such id."""


class FastTokenizer:
    """A pipeline of the tokenizers library."""

    def __init__(self, pipeline: Pipeline, settings: Settings):
        self._pipeline, self.settings = pipeline, settings
        pipeline.no_truncation()
        pipeline.no_padding()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Returns token ids of a text."""
        ids: list[int] = self._pipeline.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Returns the text of token ids."""
        text: str = self._pipeline.decode(list(ids), skip_special_tokens=skip_special_tokens)
        if self.settings.clean_up:
            for spaced in SPACED[:4]:
                text = text.replace(spaced, spaced[1:])
            text = text.replace(" ' ", "'")
            for spaced in SPACED[4:]:
                text = text.replace(spaced, spaced[1:])
        return text

    def token_id(self, token: str) -> int | None:
        """Returns the id of a token."""
        found: int | None = self._pipeline.token_to_id(token)
        return found

    def token(self, id: int) -> str | None:
        """Returns the token of an id."""
        found: str | None = self._pipeline.id_to_token(id)
        return found


class SlowTokenizer:
    """A tokenizer that only transformers has."""

    def __init__(self, tokenizer: Any):
        self._tokenizer, self.settings = tokenizer, _settings(tokenizer)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Returns token ids of a text."""
        ids = self._tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]
        return [int(token) for token in ids]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Returns the text of token ids."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def token_id(self, token: str) -> int | None:
        """Returns the id of a token."""
        found: int | None = self._tokenizer.get_vocab().get(token)
        return found

    def token(self, id: int) -> str | None:
        """Returns the token of an id."""
        try:
            found: str | None = self._tokenizer.convert_ids_to_tokens(id)
        except (IndexError, KeyError, ValueError):
            return None
        return found


def open_tokenizer(folder: Path) -> Tokenizer:
    """Returns the tokenizer of a model or checkpoint in a folder.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    contents, kind = _contents(folder), _kind(read_config(folder))
    if (sealed := _sealed(folder, contents, kind)) is not None:
        return sealed
    entry = configuration.cached("tokenizers", _key(contents, kind))
    if entry is None:
        original = _by_transformers(folder)
        entry = _entry(original, contents)
        configuration.keep("tokenizers", _key(contents, kind), entry)
        if entry == {}:
            return SlowTokenizer(original)
    if entry == {}:
        return SlowTokenizer(_by_transformers(folder))
    return _fast(folder, entry["pipeline"] or contents[PIPELINE].decode(), Settings(**entry["settings"]))


def seal(folder: Path, config: Mapping[str, Any], contents: Mapping[str, bytes]) -> dict[str, Any] | None:
    """Builds the tokenizer's entry in a compressed model's `config.json`, so that transformers need not be asked.

    Args:
        folder: the original model.
        config: its configuration.
        contents: files of the compressed model, by name.

    Returns:
        None where `tokenizer.json` is not the whole pipeline, or templates are kept in another place.
    """
    entry = configuration.cached("tokenizers", _key(found := _contents(folder), _kind(config)))
    if entry is None:
        try:
            entry = _entry(_by_transformers(folder), found)
        except ModelError:  # no tokenizer, or none that can be read
            return None
        configuration.keep("tokenizers", _key(found, _kind(config)), entry)
    own = {name: contents[name] for name in sorted(contents) if name in FILES or name.startswith(f"{TEMPLATES}/")}
    if not entry or entry["pipeline"] is not None or _templates(own) != entry["settings"]["templates"]:
        return None
    if PIPELINE not in own or json.loads(own[PIPELINE]) != json.loads(found[PIPELINE]):
        return None
    settings = {name: value for name, value in entry["settings"].items() if name != "templates"}
    return {"sha256": _digest(own, _kind(config)), **settings}


def prompt(tokenizer: Tokenizer, messages: Sequence[Message], template: str | None = None) -> list[int]:
    """Returns token ids of a conversation in the model's own form, up to where the model answers.

    Raises:
        ModelError: the template refuses the conversation.
        UsageError: there is no such template.
    """
    text = render(choose_template(tokenizer.settings, template), messages, tokenizer.settings.special)
    return tokenizer.encode(text, add_special_tokens=False)


def choose_template(settings: Settings, name: str | None = None) -> str:
    """Returns the chat template of that name, or the usual one.

    Raises:
        UsageError: there is none, none of that name, or several and no usual one.
    """
    known = ", ".join(sorted(settings.templates))
    if not settings.templates:
        raise UsageError("The model has no chat template; leave out --chat and --template.")
    if name is None and DEFAULT not in settings.templates:
        raise UsageError(
            f"The model has several chat templates and no usual one; choose with --template among {known}."
        )
    if name is not None and name not in settings.templates:
        raise UsageError(f"The model has no chat template {name!r}; it has: {known}.")
    return settings.templates[name or DEFAULT]


def _sealed(folder: Path, contents: Mapping[str, bytes], kind: str) -> Tokenizer | None:
    """Returns the tokenizer that a compressed model's seal describes; None where there is no seal that fits the
    files.
    """
    seal = configuration.tokenizer_seal(folder)
    if PIPELINE not in contents or seal.get("sha256") != _digest(contents, kind):
        return None
    special, clean_up = seal.get("special"), seal.get("clean_up")
    if not isinstance(special, dict) or not isinstance(clean_up, bool):
        return None
    if not all(isinstance(token, str) for token in special.values()):
        return None
    return _fast(folder, contents[PIPELINE].decode(), Settings(special, clean_up, _templates(contents)))


def _fast(folder: Path, pipeline: str, settings: Settings) -> FastTokenizer:
    try:
        return FastTokenizer(Pipeline.from_str(pipeline), settings)
    except Exception as problem:  # the tokenizers library raises bare Exception
        raise ModelError(f"The tokenizer in {folder} cannot be read: {files.reason(problem)}") from problem


def _by_transformers(folder: Path) -> Any:
    from mediant.models.reference import load_tokenizer

    return load_tokenizer(folder)


def _entry(tokenizer: Any, contents: Mapping[str, bytes]) -> dict[str, Any]:
    """Builds a transformers tokenizer's entry in the cache folder; empty where its own code does the work."""
    from transformers import TokenizersBackend

    own = ("_decode", "_encode_plus", "decode", "clean_up_tokenization", "apply_chat_template", "__call__")
    if not isinstance(tokenizer, TokenizersBackend) or tokenizer.split_special_tokens:
        return {}
    if any(getattr(type(tokenizer), name) is not getattr(TokenizersBackend, name) for name in own):
        return {}
    pipeline = tokenizer.backend_tokenizer.to_str()
    alone = contents[PIPELINE].decode() if PIPELINE in contents else "null"
    same = PIPELINE in contents and _bare(pipeline) == _bare(Pipeline.from_str(alone).to_str())
    return {"pipeline": None if same else pipeline, "settings": asdict(_settings(tokenizer))}


def _bare(pipeline: str) -> Any:
    """Returns a pipeline without what each call sets."""
    return json.loads(pipeline) | {"truncation": None, "padding": None}


def _settings(tokenizer: Any) -> Settings:
    templates = tokenizer.chat_template or {}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    forced = getattr(tokenizer, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False)
    destructive = type(getattr(backend, "model", None)).__name__ == "BPE" and not forced
    return Settings(
        special={name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        clean_up=bool(tokenizer.clean_up_tokenization_spaces) and not destructive,
        templates={DEFAULT: templates} if isinstance(templates, str) else dict(templates),
    )


def _contents(folder: Path) -> dict[str, bytes]:
    """Returns the files that a tokenizer may be made of, by their path in the folder."""
    places = [folder / name for name in FILES] + sorted((folder / TEMPLATES).glob("*.jinja"))
    return {place.relative_to(folder).as_posix(): place.read_bytes() for place in places if place.is_file()}


def _templates(contents: Mapping[str, bytes]) -> dict[str, str]:
    """Returns the chat templates in the files; those in files of their own go before those in
    `tokenizer_config.json`.
    """
    found = {Path(name).stem: text.decode() for name, text in contents.items() if name.startswith(f"{TEMPLATES}/")}
    if TEMPLATE in contents:
        found[DEFAULT] = contents[TEMPLATE].decode()
    if found:
        return found
    given = files.parse_json(contents.get("tokenizer_config.json", b"{}").decode()).get("chat_template") or {}
    if isinstance(given, list):
        return {entry["name"]: entry["template"] for entry in given}
    return {DEFAULT: given} if isinstance(given, str) else dict(given)


def _kind(config: Mapping[str, Any]) -> str:
    """Selects the part of a configuration that chooses the class of a tokenizer."""
    return json.dumps([config.get("model_type"), config.get("tokenizer_class")])


def _digest(contents: Mapping[str, bytes], kind: str) -> str:
    listed = {name: files.sha256(data) for name, data in sorted(contents.items())}
    return files.sha256(json.dumps([kind, listed]).encode())


def _key(contents: Mapping[str, bytes], kind: str) -> str:
    return configuration.cache_key(_digest(contents, kind))
