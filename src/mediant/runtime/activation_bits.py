"""How many bits the native decoder rounds the inputs of packed matrices to: the one place that says what is usual."""

from __future__ import annotations

from mediant.errors import UsageError

# 15 bits are two products of bytes and cost up to 1.4 times the time of 8 where arithmetic, not memory, is the limit.
CHOICES = (8, 15)
# 8 bits cost more divergence than is allowed between a decoder and its weights (docs/log.md, 2026-11-28).
USUAL = 15


def is_precise(bits: int) -> bool:
    """Returns True for 15-bit activations, False for 8-bit ones.

    Raises:
        UsageError: it is neither.
    """
    if bits not in CHOICES:
        raise UsageError(f"Activations take {' or '.join(map(str, CHOICES))} bits, not {bits}.")
    return bits == max(CHOICES)
