"""Types of weights that are written, each wider than those before it."""

from __future__ import annotations

TYPES = ("q4_0", "q8_0", "f16", "f32")
