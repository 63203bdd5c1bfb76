"""Code that comes with a model: run where it is trusted, else left alone or refused.

Files of Python lie beside the weights, and the entry `auto_map` of `config.json` says which class in them is the
configuration and which the network. As in transformers, a model whose classes transformers has itself is run by those
unless its own code is trusted; any other is refused until then. Trust is what `--trust-remote-code` gives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from mediant import files
from mediant.errors import ModelError, StorageError

FLAG = "--trust-remote-code"
CONFIGURATION = "AutoConfig"
WRITERS = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
"""Kinds of networks that predict the next token."""

PREFERRED = (*WRITERS, "AutoModelForMaskedLM", "AutoModel")

_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


@contextlib.contextmanager
def trusting(wanted: bool = True) -> Iterator[None]:
    """Within it, code that comes with a model is run; what `--trust-remote-code` sets."""
    before = _trusted.set(wanted or _trusted.get())
    try:
        yield
    finally:
        _trusted.reset(before)


def trusted() -> bool:
    """Returns True within `trusting`."""
    return _trusted.get()


def references(auto_map: Any) -> dict[str, str]:
    """Returns the classes of configuration and network in an `auto_map`, as "file.Class", by the class of transformers
    that finds them.

    >>> references({"AutoConfig": "own.Config", "AutoTokenizer": ["own.Tokenizer", None]})
    {'AutoConfig': 'own.Config'}
    """
    found = auto_map.items() if isinstance(auto_map, Mapping) else ()
    return {k: v for k, v in found if isinstance(v, str) and (k == CONFIGURATION or k.startswith("AutoModel"))}


def network_kind(auto_map: Any, architectures: Any) -> str | None:
    """Returns the entry of an `auto_map` that has the network: that which `architectures` names, else the most usual
    kind.

    >>> network_kind({"AutoModel": "own.Body", "AutoModelForCausalLM": "own.Writer"}, ["Body"])
    'AutoModel'
    """
    kinds = {kind: reference for kind, reference in references(auto_map).items() if kind != CONFIGURATION}
    named = [kind for kind, reference in kinds.items() if reference.rpartition(".")[2] in (architectures or ())]
    order = [*named, *(kind for kind in PREFERRED if kind in kinds), *kinds]
    return order[0] if order else None


def load_class(reference: str, folder: str | Path) -> Any:
    """Returns the class that a reference of the model in a folder names; this runs its code.

    Raises:
        ModelError: the code is not trusted, is not there, or fails.
        StorageError: transformers cannot copy it to where it runs code from.
    """
    if not trusted():
        raise ModelError(refusal(folder))
    from transformers import dynamic_module_utils

    try:
        return dynamic_module_utils.get_class_from_dynamic_module(reference, str(folder))
    except Exception as problem:  # code of others may raise anything at all
        if isinstance(problem, OSError) and problem.errno in files.REFUSALS:
            place = dynamic_module_utils.HF_MODULES_CACHE
            reason = f"Cannot copy the code that comes with {folder} to {place}: {files.REFUSALS[problem.errno]}"
            raise StorageError(f"{reason}; set HF_MODULES_CACHE to a folder that can be written.") from problem
        raise ModelError(f"The code of {reference} that comes with {folder} fails: {problem}") from problem


def refusal(where: object, part: str = "model") -> str:
    """Returns the sentence for code that is not trusted.

    Args:
        where: the model.
        part: what of it needs the code.
    """
    return (
        f"The {part} in {where} needs Python code that comes with it, which transformers does not have: read that code,"
        f" and give {FLAG} to run it."
    )


def python_files(folder: Path) -> list[Path]:
    """Returns the files of Python in a folder, in alphabetical order."""
    return sorted(file for file in folder.rglob("*.py") if file.is_file())
