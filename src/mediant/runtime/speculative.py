"""Self-speculation: the top planes of the matrices draft tokens, all planes read the draft in one pass.

Reading k + 1 tokens at once costs little more than reading one, for each weight is fetched once; so each drafted token
that all planes agree with is nearly free. Greedy text is that of the whole model token by token, for a token's logits
are the same bits in a pass of one or of many; drawn text has the same distribution (Leviathan, Kalman and Matias 2023,
arXiv 2211.17192): a draft d, drawn with probability q(d), is kept with probability min(1, p(d) / q(d)), and the first
that is not is replaced by a draw from max(p - q, 0). The draft's keys and values are overwritten by the reading pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mediant.runtime.decoder import Decoder
    from mediant.runtime.generation import GenerationRequest
    from mediant.runtime.kv_cache import Sequence


# Tokens that are written before any is shown, in whole drafts and the token behind each. The last drafts of a burst are
# cut short, for it must not write more; with a burst of one draft most of them would be.
BURST = 4


def rounds_of(
    decoder: Decoder, sequence: Sequence, last: int, state: Any, request: GenerationRequest, count: int
) -> list[int]:
    """Drafts, judged: `count` tokens behind `last`, which the sequence does not hold yet, or fewer up to a stop."""
    draft, whole = decoder.views(request.draft), decoder.views(request.precision)
    stops = sorted(request.stop_tokens)
    written, drafted, accepted, rounds = decoder.native.speculate(
        sequence.cache, last, count, min(request.draft_length, count - 1), draft, whole, state, stops
    )
    decoder.drafts.add(drafted, accepted, rounds)
    tokens: list[int] = written
    return tokens
