"""What a decoder remembers of a sequence: the key and value of every token in every layer.

Keys and values take `kv_bits` bits each: 32 and 16 are floats; at 8 and 4, 32 neighbouring numbers of a head share a
least value and a step s (float16, rounded outwards), so that a stored number is off by at most s / 2, with s at most
the spread of the 32 numbers divided by 2^bits - 1, rounded up to float16.
Layers with a sliding window remember their window alone.
"""

from __future__ import annotations

from typing import Any

from mediant.errors import UsageError

KV_BITS = (32, 16, 8, 4)


class Sequence:
    """The tokens that a decoder has read, as keys and values."""

    def __init__(self, cache: Any):
        self.cache = cache

    @property
    def length(self) -> int:
        """Tokens read."""
        return int(self.cache.length)

    @property
    def bytes(self) -> int:
        """Memory reserved; it is taken from the system where it is used."""
        return int(self.cache.bytes)

    def truncate(self, length: int) -> None:
        """Forgets all tokens from number `length` on.

        Raises:
            UsageError: there are fewer, or a sliding window has forgotten what comes before.
        """
        try:
            self.cache.truncate(length)
        except ValueError as problem:
            raise UsageError(f"A sequence of {self.length} tokens cannot be cut to {length}: {problem}.") from None
