"""The configuration of a model as transformers reads it, every default filled in, also where transformers is not there.

Defaults, old names and derived entries are rules of the configuration's class, different for each. So they are taken
from the object that the class builds, never worked out here. Building it needs transformers, which takes seconds to
import; therefore `config.json` of a compressed model is written resolved, with a seal that says so. Any other
configuration is resolved through transformers once and kept in the cache folder by its content.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mediant import files
from mediant.errors import StorageError
from mediant.models import remote_code
from mediant.models.folder import read_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

METHOD = "quantization_config"
OURS = {"quant_method": "mediant", "format_version": 1}
SEAL = "resolved"
# The way of resolving; a change of it makes what the cache folder holds stale.
REVISION = 1
# Entries of a configuration that say where it came from, not what it is.
ORIGIN = ("_name_or_path", METHOD)
# Parts of transformers whose words say nothing about what a network computes.
ELSEWHERE = re.compile(
    r"transformers\.(generation|quantizers|distributed|models\.auto|tokenization|safetensors|utils\.chat"
    r"|integrations\.gguf|.*\bconfiguration)"
)


@dataclass(frozen=True)
class Configuration:
    """What `config.json` means.

    Attributes:
        entries: every entry that the configuration's class has, and those beside them.
        telling: names of the entries that differ from the class's default and that code of the network reads, or an
            attention pattern of ours. No other entry makes two networks of a class compute differently.
    """

    entries: Mapping[str, Any]
    telling: frozenset[str]


def configuration(folder: Path) -> Configuration:
    """Returns the configuration of the model or checkpoint in a folder.

    Raises:
        ModelError: it cannot be read, or transformers refuses it.
    """
    raw = read_config(folder)
    if remote_code.trusted() and remote_code.references(raw.get("auto_map")):
        return Configuration(_entries(_own(folder)), frozenset())
    return _unsealed(raw) or _kept(raw) or _keep(raw, resolve(raw, str(folder)))


def resolve(config: Mapping[str, Any], where: str = "the model") -> Configuration:
    """Returns the configuration that transformers builds from the entries of a `config.json`.

    Raises:
        ModelError: transformers does not know its `model_type`, or refuses one of its values.
    """
    from mediant.models import architecture

    built = architecture.build_config(config, where)
    entries = _entries(built)
    try:
        usual = _entries(type(built)())
        read = words_of(architecture.network_class(built))
    except Exception:  # a class without defaults, or without a network: every entry may tell
        usual, read = {}, None
    unusual = [name for name, value in entries.items() if name not in usual or usual[name] != value]
    ours = [name for name in unusual if name.startswith("mediant_")]
    return Configuration(entries, frozenset(ours + [n for n in unusual if read is None or n in read]))


def sealed(
    config: Mapping[str, Any], where: str, tokenizer: Mapping[str, Any] | None = None, folder: Path | None = None
) -> dict[str, Any]:
    """Returns the entries of the `config.json` of a compressed model: resolved, with a seal, where reading it again
    agrees.

    What the code that comes with a model reads is not known, so its configuration stays as it is but for the names of
    the classes that were run.

    Args:
        config: entries as they came with the model.
        where: the model, for messages.
        tokenizer: what the seal should say of the tokenizer (`mediant.models.tokenizer`).
        folder: where the model lies; needed where it is run by its own code.
    """
    if folder is not None and remote_code.trusted() and remote_code.references(config.get("auto_map")):
        plain = {name: value for name, value in config.items() if name != METHOD}
        return {**plain, "architectures": _own(folder).architectures, METHOD: dict(OURS)}
    found = resolve(config, where)
    again = resolve(found.entries, where)
    plain = {name: value for name, value in config.items() if name != METHOD}
    method: dict[str, Any] = dict(OURS)
    if again != found:
        return {**plain, METHOD: method}
    seal = {"sha256": _digest(found.entries, found.telling), "telling": sorted(found.telling)}
    return {**found.entries, METHOD: {**method, SEAL: seal | ({"tokenizer": tokenizer} if tokenizer else {})}}


def tokenizer_seal(folder: Path) -> Mapping[str, Any]:
    """Returns the seal of a checkpoint's tokenizer files (`mediant.models.tokenizer`); empty without one."""
    found = _seal(read_config(folder)).get("tokenizer")
    return found if isinstance(found, Mapping) else {}


def cache_key(*parts: str | bytes) -> str:
    """Returns a name in the cache folder for what transformers makes of these contents."""
    # Late: its import takes as long as reading a configuration, and a resolved one needs no cache.
    from importlib.metadata import version

    lines = [f"{REVISION} {version('transformers')} {version('tokenizers')}", *parts]
    return files.sha256(b"\0".join(p.encode() if isinstance(p, str) else p for p in lines))


def cached(kind: str, key: str) -> Any:
    """Returns an entry of the cache folder; None where there is none."""
    try:
        return json.loads((files.cache_folder() / kind / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, StorageError):
        return None


def keep(kind: str, key: str, entry: Any) -> None:
    """Puts an entry into the cache folder; where that cannot be written, it only costs time."""
    try:
        files.write(files.cache_folder() / kind / f"{key}.json", json.dumps(entry).encode())
    except (OSError, StorageError):
        return


def words_of(network: type[PreTrainedModel]) -> frozenset[str]:
    """Returns every attribute and quoted word in the code of transformers that a network's classes lead to.

    An entry of a configuration that is not among them is read by nobody.
    """
    return _words(tuple(sorted({c.__module__ for c in network.__mro__})))


@cache
def _words(modules: tuple[str, ...]) -> frozenset[str]:
    sources = [Path(str(sys.modules[name].__file__)) for name in _reached(modules)]
    found: set[str] = set()
    for source in sources:
        for attribute, quoted in re.findall(r"\.(\w+)|[\"'](\w+)[\"']", source.read_text(encoding="utf-8")):
            found.add(attribute or quoted)
    return frozenset(found)


def _reached(start: Iterable[str]) -> set[str]:
    """Returns the names of the modules of transformers that the given ones use, and they in turn."""
    found, new = set[str](), set(start)
    while new:
        name = new.pop()
        if not name.startswith("transformers.") or ELSEWHERE.match(name) or name in found or name not in sys.modules:
            continue
        found.add(name)
        uses = (getattr(value, "__module__", None) for value in list(vars(sys.modules[name]).values()))
        new |= {use for use in uses if isinstance(use, str)}
    return found


def _own(folder: Path) -> Any:
    """Returns the configuration of the model in a folder, built by the code that comes with it."""
    from mediant.models import architecture

    return architecture.load_config(folder)


def _entries(built: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(built.to_json_string(use_diff=False))
    return {name: value for name, value in found.items() if name not in ORIGIN}


def _seal(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    method = raw.get(METHOD)
    seal = method.get(SEAL) if isinstance(method, Mapping) else None
    return seal if isinstance(seal, Mapping) else {}


def _unsealed(raw: Mapping[str, Any]) -> Configuration | None:
    """Returns a configuration that was written resolved and has not been changed since."""
    seal, entries = _seal(raw), {name: value for name, value in raw.items() if name != METHOD}
    telling = seal.get("telling")
    if not isinstance(telling, list) or seal.get("sha256") != _digest(entries, telling):
        return None
    return Configuration(entries, frozenset(telling))


def _digest(entries: Mapping[str, Any], telling: Iterable[Any]) -> str:
    return files.sha256(json.dumps([entries, sorted(map(str, telling))], sort_keys=True).encode())


def _kept(raw: Mapping[str, Any]) -> Configuration | None:
    found = cached("configurations", cache_key(json.dumps(raw)))
    try:
        return Configuration(dict(found["entries"]), frozenset(found["telling"]))
    except (KeyError, TypeError, ValueError):
        return None


def _keep(raw: Mapping[str, Any], found: Configuration) -> Configuration:
    entry = {"entries": dict(found.entries), "telling": sorted(found.telling)}
    keep("configurations", cache_key(json.dumps(raw)), entry)
    return found
