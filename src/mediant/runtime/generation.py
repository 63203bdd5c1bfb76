"""What every writer takes: a request, and the room that a prompt leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from mediant.errors import UsageError
from mediant.runtime.sampling import Sampling

if TYPE_CHECKING:
    from mediant.runtime.precision import Policy


@dataclass(frozen=True)
class GenerationRequest:
    """What to write behind a prompt, and how.

    `precision` is the number of bits of a code to use (`dial`), where the model is stored so that it can be read with
    fewer (None: all); a `policy` chooses it anew for every token. `draft` is the precision at which tokens are drafted
    for self-speculation, `draft_length` at a time.
    """

    max_tokens: int = 64
    sampling: Sampling = field(default_factory=Sampling)
    stop_tokens: frozenset[int] = frozenset()
    precision: float | None = None
    policy: Policy | None = None
    draft: float | None = None
    draft_length: int = 4


class Writer(Protocol):
    """Something that goes on from tokens."""

    positions: int | None

    def write(self, tokens: Sequence[int], request: GenerationRequest) -> Iterator[int]:
        """Returns the tokens behind the given ones, up to and with the first stop token."""


def check_room(positions: int | None, used: int) -> int:
    """Returns tokens that still fit behind the prompt.

    Raises:
        UsageError: none does.
    """
    if used == 0:
        raise UsageError("The prompt is empty; give at least one word.")
    if positions is not None and used >= positions:
        raise UsageError(f"The prompt has {used} tokens; the model takes fewer than {positions}.")
    return 1 << 62 if positions is None else positions - used
