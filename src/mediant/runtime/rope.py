"""How fast each pair of dimensions of a query or key turns from position to position.

Pair i of d rotated dimensions turns by base^(-2 i / d) radians a position. Models that were stretched to longer texts
slow these frequencies down: all alike (`linear`), or the slow ones only, with a ramp between (`llama3`; `yarn`, Peng
et al. 2023, arXiv 2309.00071). `dynamic` changes nothing up to the positions the model was made for, and the native
decoder goes no further. Frequencies are float32, computed as transformers does, for models were trained with those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediant.runtime.description import Config, Rope, UnsupportedModel, real

Floats = NDArray[np.float32]


def rope(config: Config, head_dim: int, kind: str | None = None) -> Rope:
    """Returns the rotation that a resolved configuration states in `rope_parameters`.

    Args:
        config: of the model.
        head_dim: dimensions of a head.
        kind: the kind of layer, where the configuration has rotations for each.

    Raises:
        UnsupportedModel: a form of rotation that is not known, or an entry that the form lacks or does not know.
    """
    given = config.get("rope_parameters")
    given = given.get(kind) if kind is not None and isinstance(given, Mapping) else given
    if not isinstance(given, Mapping):
        raise UnsupportedModel("the entries about its rotation of positions are not an object")
    name = str(given.get("rope_type"))
    if name not in _FORMS:
        raise UnsupportedModel(f"its rotation of positions is {name!r}; there are: {', '.join(_FORMS)}")
    needed, further, form = _FORMS[name]
    entries = {key: value for key, value in given.items() if key not in ("rope_type", "type") and value is not None}
    if missing := ({"rope_theta", *needed} - entries.keys()):
        raise UnsupportedModel(f"its rotation {name!r} lacks the entry {min(missing)!r}")
    if strange := (entries.keys() - {"rope_theta", *needed, *further}):
        raise UnsupportedModel(f"its rotation {name!r} has an entry {min(strange)!r}, which only transformers heeds")
    base = real("rope_theta", entries["rope_theta"])
    if base <= 0 or head_dim % 2:
        raise UnsupportedModel(f"its rotation has the base {base} for heads of {head_dim}; positive and even are known")
    powers = np.float32(base) ** (np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim))
    frequencies = (np.float32(1) / powers).astype(np.float32)
    return form(frequencies, _Entries(name, entries), base, kind is not None)


class _Entries:
    """Numbers of a rotation, by name."""

    def __init__(self, form: str, entries: Mapping[str, Any]):
        self._form, self._entries = form, entries

    def number(self, name: str) -> float:
        """Returns a number other than zero."""
        found = real(f"{name} of its rotation {self._form!r}", self._entries[name])
        if found == 0:
            raise UnsupportedModel(f"its rotation {self._form!r} has 0 as {name}")
        return found

    def get(self, name: str, otherwise: Any) -> Any:
        """Returns the entry as it is, or what stands for its absence."""
        return self._entries.get(name, otherwise)

    def number_or(self, name: str, otherwise: float) -> float:
        """Returns a number; absence and zero mean the same, as in transformers."""
        return self.number(name) if self._entries.get(name) else otherwise


def _default(frequencies: Floats, given: _Entries, base: float, nested: bool) -> Rope:
    return Rope(frequencies)


def _linear(frequencies: Floats, given: _Entries, base: float, nested: bool) -> Rope:
    return Rope(frequencies / np.float32(given.number("factor")))


def _llama3(frequencies: Floats, given: _Entries, base: float, nested: bool) -> Rope:
    factor, low, high, trained = (np.float32(given.number(name)) for name in LLAMA3)
    if high <= low:
        raise UnsupportedModel(f"its rotation 'llama3' has high_freq_factor {high} not above low_freq_factor {low}")
    turns = trained / (np.float32(2 * math.pi) / frequencies)  # in the length the model was trained on
    smooth = np.clip((turns - low) / (high - low), 0, 1).astype(np.float32)
    return Rope((1 - smooth) * frequencies / factor + smooth * frequencies)


def _yarn(frequencies: Floats, given: _Entries, base: float, nested: bool) -> Rope:
    trained, factor, size = (
        given.number("original_max_position_embeddings"),
        given.number("factor"),
        2 * len(frequencies),
    )

    def dimension(turns: float) -> float:
        """Returns the pair that turns so often in the length the model was trained on."""
        if base == 1 or trained <= 0 or turns <= 0:
            raise UnsupportedModel("its rotation 'yarn' has numbers for which it is not defined")
        return size * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = dimension(given.number_or("beta_fast", 32)), dimension(given.number_or("beta_slow", 1))
    # transformers looks for `truncate` beside the rotations of the kinds of layers, not within them.
    if nested or given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    width = high - low or 0.001
    ramp = np.clip((np.arange(size // 2, dtype=np.float32) - low) / width, 0, 1).astype(np.float32)
    slowed = frequencies / np.float32(factor) * ramp + frequencies * (1 - ramp)
    return Rope(slowed.astype(np.float32), _yarn_scale(given, factor))


def _yarn_scale(given: _Entries, factor: float) -> float:
    def scale(by: float) -> float:
        return 0.1 * by * math.log(factor) + 1.0 if factor > 1 else 1.0

    if given.get("attention_factor", None) is not None:
        return given.number("attention_factor")
    if given.get("mscale", 0) and given.get("mscale_all_dim", 0):
        return scale(given.number("mscale")) / scale(given.number("mscale_all_dim"))
    return scale(1.0)


LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
YARN = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate")
# Of each form: the entries that it needs beside the base, those that it knows, and what it computes.
_FORMS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], Callable[[Floats, _Entries, float, bool], Rope]]] = {
    "default": ((), (), _default),
    "linear": (("factor",), (), _linear),
    "dynamic": (("factor",), ("original_max_position_embeddings",), _default),
    "llama3": (LLAMA3, (), _llama3),
    "yarn": (("factor", "original_max_position_embeddings"), YARN, _yarn),
}
