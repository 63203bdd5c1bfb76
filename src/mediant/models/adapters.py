"""Adapters (LoRA and its kin) beside or instead of a model's weights: refused, or merged into them by peft.

transformers attaches adapter files that lie beside weights without a word, so a folder with both is the tuned model to
one program and the base to another. Nothing is guessed here: without `--merge-adapter` such a folder is refused.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from mediant import files
from mediant.claims import claimed
from mediant.errors import ModelError
from mediant.models import cached, folder, impostors
from mediant.models.adapter_files import CONFIG, PICKLE, WEIGHTS
from mediant.models.dense_folder import write_folder
from mediant.models.lazy import LazyTensor
from mediant.progress import SILENT, Progress

FORMAT = 2
"""Part of the cache key: raise it when the same files would give another folder."""

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")

_merging: ContextVar[bool] = ContextVar("merging", default=False)


@contextlib.contextmanager
def merging(wanted: bool = True) -> Iterator[None]:
    """Within it, opening a model merges the adapter that lies with it; what `--merge-adapter` sets."""
    before = _merging.set(wanted or _merging.get())
    try:
        yield
    finally:
        _merging.reset(before)


def merged(path: Path, name: str, resolve: Callable[[str], Path], progress: Progress = SILENT) -> Path:
    """Returns the folder in the cache of the model with its adapter merged; it is made now if it is not there.

    The base is the model in the same folder, or else the one that the adapter names, found by `resolve`.

    Raises:
        ModelError: merging is not asked for, or cannot be done.
        StorageError: the cache folder cannot be written.
    """
    config = _read_config(path)
    named = str(config.get("base_model_name_or_path") or "")
    beside = (path / "config.json").is_file() and any((path / n).is_file() for n in (folder.SINGLE, folder.INDEX))
    if not _merging.get():
        raise ModelError(_refusal(path, named, beside))
    _check(path, config, named, beside)
    from mediant.models import abilities  # imports transformers, which takes seconds

    if beside:
        abilities.ask(path)
    with _without_adapter(path) if beside else contextlib.nullcontext(named) as spec:
        base = resolve(str(spec))
        abilities.ask(base)
        files = [*folder.weight_files(base), base / "config.json", path / CONFIG, path / WEIGHTS]
        others = cached.sidecar_files(base) | (cached.sidecar_files(path) if _has_tokenizer(path) else {})
        files += [file for file in others.values() if isinstance(file, Path)]
        target = cached.place(name.replace("/", "--"), files, {"merged": FORMAT})
        if not target.is_dir():
            progress.say(f"merging the adapter in {path} into {base if not beside else 'its model'}; kept in {target}")
            others[folder.ORIGIN] = cached.origin(name, path)
            with claimed(target, progress):
                if not target.is_dir():
                    _merge(base, path, target, others, progress)
    return target


def _refusal(path: Path, named: str, beside: bool) -> str:
    if beside:
        return (
            f"{path} has an adapter ({CONFIG}) beside the weights of a model: give --merge-adapter for the model with"
            " the adapter, or move the adapter's files away for the model without it."
        )
    base = f" of {named}" if named else ""
    return (
        f"{path} is an adapter{base}, not a model: give --merge-adapter for that model with the adapter, or give the"
        " model itself."
    )


def _read_config(path: Path) -> dict[str, Any]:
    if not (path / CONFIG).is_file():
        raise ModelError(f"{path} has the weights of an adapter but no {CONFIG}, without which they say nothing.")
    impostors.check(path / CONFIG)
    try:
        found = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ModelError(f"The {CONFIG} of {path} cannot be read: {files.reason(problem)}") from None
    if not isinstance(found, dict):
        raise ModelError(f"The {CONFIG} of {path} is not a JSON object.")
    return found


def _check(path: Path, config: dict[str, Any], named: str, beside: bool) -> None:
    if not (path / WEIGHTS).is_file():
        pickled = "pickles, which can run any code when opened; convert them to"
        kind = pickled if (path / PICKLE).is_file() else "not there; put them into"
        raise ModelError(f"The weights of the adapter in {path} are {kind} {WEIGHTS}.")
    impostors.check(path / WEIGHTS)
    if not (beside or named):
        raise ModelError(f"The {CONFIG} of {path} does not name the model it belongs to (base_model_name_or_path).")
    try:
        import peft
    except ImportError:
        raise ModelError("To merge an adapter takes peft; pip install 'mediant[lora]'.") from None
    tuner = peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING.get(config.get("peft_type"))
    if not hasattr(tuner, "merge_and_unload"):
        raise ModelError(
            f"The adapter in {path} is of the type {config.get('peft_type')!r}, which cannot be merged into weights."
        )


def _has_tokenizer(path: Path) -> bool:
    return any((path / name).is_file() for name in TOKENIZERS)


@contextlib.contextmanager
def _without_adapter(path: Path) -> Iterator[Path]:
    """A folder of links to all but the adapter's files, so that nothing attaches them."""
    with tempfile.TemporaryDirectory() as links:
        for file in path.iterdir():
            if file.name not in (CONFIG, WEIGHTS, PICKLE):
                (Path(links) / file.name).symlink_to(file.resolve())
        yield Path(links)


def _merge(base: Path, adapter: Path, target: Path, beside: dict[str, bytes | Path], progress: Progress) -> None:
    from peft import PeftModel

    from mediant.models import reference, roles

    network = reference.load_network(base)
    try:
        tuned = PeftModel.from_pretrained(network, str(adapter)).merge_and_unload(safe_merge=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as problem:
        raise ModelError(f"peft cannot merge the adapter in {adapter} into {base}: {problem}") from problem
    state = tuned.state_dict()
    tensors = {group[0]: LazyTensor.of(state[group[0]].detach()) for group in roles.ties(tuned)}
    settings = folder.read_config(base) | {"dtype": "float32"}
    settings.pop("torch_dtype", None)
    settings["vocab_size"] = tuned.config.get_text_config().vocab_size if "vocab_size" in settings else None
    write_folder(target, {k: v for k, v in settings.items() if v is not None}, tensors, beside, progress)
