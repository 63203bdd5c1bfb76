"""Sets of indices as texts: a bit for every index, the least significant first, in base64."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence

import numpy as np

from mediant.errors import PlanError


def to_text(indices: Iterable[int], count: int) -> str:
    """Returns the text of a set of indices below `count`.

    >>> to_text([0, 9], 10)
    'AQI='
    """
    bits = np.zeros(count, np.uint8)
    bits[list(indices)] = 1
    return base64.b64encode(np.packbits(bits, bitorder="little").tobytes()).decode()


def from_text(text: object, count: int) -> list[int]:
    """Returns the inverse of `to_text`, ascending.

    Raises:
        PlanError: it is not the text of a set of indices below `count`.
    """
    try:
        data = base64.b64decode(str(text), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if len(data) != -(-count // 8) or bits[count:].any():
        raise PlanError(f"{str(text)[:40]!r} is not a set of indices below {count}: a bit for each, in base64.")
    return [int(i) for i in np.flatnonzero(bits)]


def uniform(texts: object, layers: int, count: int, what: str) -> list[list[int]]:
    """Returns a set for each layer, all equally large: only so is the result an ordinary model.

    Raises:
        PlanError: the number of sets or their sizes do not fit.
    """
    if not isinstance(texts, Sequence) or isinstance(texts, str) or len(texts) != layers:
        raise PlanError(f"The {what} to keep are not a list with one set for each of {layers} layers.")
    kept = [from_text(text, count) for text in texts]
    if len({len(indices) for indices in kept}) != 1 or not kept[0]:
        raise PlanError(f"The {what} to keep are not equally many, at least one, in every layer.")
    return kept
