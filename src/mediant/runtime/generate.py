"""Text, token by token, from whichever runtime runs the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mediant.errors import ModelError, UsageError
from mediant.runtime.generation import GenerationRequest, check_room
from mediant.runtime.sampling import sampler
from mediant.runtime.speculative import BURST, rounds_of

if TYPE_CHECKING:
    from mediant.runtime.decoder import Decoder


class NativeWriter:
    """The native decoder. What two prompts in a row have in common is read once."""

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        self.positions: int | None = decoder.description.positions
        self._sequence = decoder.sequence()
        self._read: list[int] = []

    def write(self, tokens: Sequence[int], request: GenerationRequest) -> Iterator[int]:
        """Reads all but the last token, then writes; errors as for `Decoder.prefill`.

        Raises:
            UsageError: a policy or drafts are asked for, and the model has one precision only.
            ModelError: what the model computes is not finite, so that its file must be damaged.
        """
        room = check_room(self.positions, len(tokens))
        if (request.policy is not None or request.draft is not None) and len(self.decoder.precisions) < 2:
            raise UsageError(
                "The model can be read at one precision only, which leaves nothing to choose or draft with;"
                " compress it with --recipe nested."
            )
        self.decoder.set_precision(request.precision)
        self._go_back(tokens)
        for token in range(self._sequence.length, len(tokens) - 1, self.decoder.chunk):
            part = tokens[token : min(token + self.decoder.chunk, len(tokens) - 1)]
            last = token + len(part) == len(tokens) - 1
            logits = self.decoder.prefill(self._sequence, part, logits=last)
            self._read += part
            _check_finite(logits)
        state = sampler(request.sampling, self.decoder.vocabulary)
        state.saw(np.asarray(tokens, np.int32))
        yield from self._go_on(int(tokens[-1]), min(request.max_tokens, room), state, request)

    def _go_on(self, last: int, count: int, state: Any, request: GenerationRequest) -> Iterator[int]:
        stops = sorted(request.stop_tokens)
        while count > 0:
            if request.policy is not None:
                new = [request.policy.next(self.decoder, self._sequence, last, state)]
            elif request.draft is not None and count > 1:
                new = rounds_of(
                    self.decoder, self._sequence, last, state, request, min(count, BURST * (request.draft_length + 1))
                )
            else:
                new = self.decoder.native.generate(self._sequence.cache, last, 1, state, stops)
            for token in new:
                self._read.append(last)
                yield token
                last, count = token, count - 1
                if token in request.stop_tokens:
                    return

    def _go_back(self, tokens: Sequence[int]) -> None:
        """Forgets what was read beyond the common beginning with `tokens`, whose last must be read again."""
        same = 0
        while same < min(len(self._read), len(tokens) - 1) and self._read[same] == tokens[same]:
            same += 1
        same = min(same, self._sequence.length)
        try:
            self._sequence.truncate(same)
        except UsageError:  # a sliding window has moved on
            self._sequence, same = self.decoder.sequence(), 0
        self._read = self._read[:same]


def _check_finite(logits: Any) -> None:
    # What stays mapped is not hashed at opening, so this is where damage in it shows.
    if not np.isfinite(logits).all():
        raise ModelError(
            "What the model computes is not finite, so its weights are damaged; mediant inspect --verify says where."
        )


class TransformersWriter:
    """A network of transformers, with its own cache."""

    def __init__(self, network: Any):
        self._network = network
        self.positions: int | None = getattr(network.config.get_text_config(), "max_position_embeddings", None)

    def write(self, tokens: Sequence[int], request: GenerationRequest) -> Iterator[int]:
        """Reads the tokens and writes.

        Raises:
            UsageError: precision or drafts are asked for, which the native decoder alone has.
        """
        import torch

        from mediant.models.running import Steps

        if request.precision is not None or request.policy is not None or request.draft is not None:
            raise UsageError("Only the native decoder changes its precision; this model runs in transformers.")
        room = check_room(self.positions, len(tokens))
        state, step, new = None, Steps(self._network), list(tokens)
        for _ in range(min(request.max_tokens, room)):
            with torch.inference_mode():
                logits = step(torch.tensor([new]))[0].numpy().copy()
            if state is None:
                state = sampler(request.sampling, len(logits))
                state.saw(np.asarray(tokens, np.int32))
            new = [int(state.next(logits))]
            state.saw(np.asarray(new, np.int32))
            yield new[0]
            if new[0] in request.stop_tokens:
                return


def text_pieces(tokenizer: Any, tokens: Iterable[int], stops: Sequence[str] = ()) -> Iterator[str]:
    """Yields the text of tokens, in pieces as soon as they are certain; ends before the first of the `stops`.

    A piece waits while its last character is incomplete, or could be the beginning of a stop.
    """
    written: list[int] = []
    shown = ""
    for token in tokens:
        written.append(token)
        text = tokenizer.decode(written, skip_special_tokens=True)
        cut = min((place for place in (text.find(stop) for stop in stops) if place >= 0), default=-1)
        if cut >= 0:
            if cut > len(shown):
                yield text[len(shown) : cut]
            return
        ready = text if not text.endswith("�") else shown
        ready = ready[: len(ready) - _started(ready, stops)]
        if len(ready) > len(shown):
            yield ready[len(shown) :]
            shown = ready
    rest = tokenizer.decode(written, skip_special_tokens=True)[len(shown) :]
    if rest:
        yield rest


def _started(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of the text that could be the beginning of a stop.

    >>> _started("one. Us", ["User:"])
    2
    """
    lengths = (n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n]))
    return max(lengths, default=0)
