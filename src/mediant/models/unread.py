"""Stored tensors that a network has no place for: known ones with the reason, and all others, which are refused.

A tensor without a place is work of training that would be lost: a bias that the configuration forgets, a scale, a layer
too many. Only what is listed here may stay behind, and it is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mediant.errors import ModelError

REASONS = (
    (
        r"(^|\.)(visual|vision_\w+|multi_modal_projector|mm_projector|image_newline|img_processor|perceiver|resampler"
        r"|embed_vision|aligner)\.",
        "a tower for images, which the language model alone does not have",
    ),
    (
        r"(^|\.)(audio_\w+|speech_\w+|embed_audio|sound_\w+)\.",
        "a tower for sound, which the language model alone does not have",
    ),
    (
        r"(^|\.)(mtp|mtp_\w+|nextn\w*|eh_proj|enorm|hnorm|medusa_head|eagle\w*)\.",
        "a head that drafts further tokens; answers do not depend on it",
    ),
    (
        r"^(cls|qa_outputs|classifier|score|v_head|value_head|pooler|discriminator_predictions|generator_\w+)\.",
        "a head for another task",
    ),
    (
        r"(^|\.)(masked_bias|inv_freq|position_ids|cos_cached|sin_cached|token_type_ids|embed_positions\.\w*freq)$",
        "a table that is computed anew",
    ),
)
"""Patterns of names, and why such tensors may stay behind."""


@dataclass(frozen=True)
class Unread:
    """Tensors of one kind that stay behind."""

    reason: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        """Returns one line for a person."""
        return f"left out: {len(self.names)} tensors such as {self.names[0]} ({self.reason})"


def unread(names: Iterable[str], layers: int | None, where: str) -> tuple[Unread, ...]:
    """Returns the ledger of tensors without a place in a network of so many `layers`.

    Layers behind the last are heads that draft (DeepSeek, GLM).

    Raises:
        ModelError: some are of no kind that may stay behind.
    """
    kinds: dict[str, list[str]] = {}
    unknown: list[str] = []
    for name in names:
        reason = _reason(name, layers)
        (kinds.setdefault(reason, []) if reason else unknown).append(name)
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise ModelError(f"{where} has no place for {', '.join(unknown[:3])}{more}; its config.json does not fit them.")
    return tuple(Unread(reason, tuple(found)) for reason, found in kinds.items())


def _reason(name: str, layers: int | None) -> str | None:
    number = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    if layers and number and int(number[1]) >= layers:
        return REASONS[2][1]
    return next((reason for pattern, reason in REASONS if re.search(pattern, name)), None)
