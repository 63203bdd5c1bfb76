"""The verb `evaluate`: what a compressed model lost against its reference, on text calibration never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mediant.errors import UsageError
from mediant.evaluation import divergence, embeddings
from mediant.evaluation.together import compare_all
from mediant.evaluation.windows import check, cut
from mediant.models.head_in_pieces import logits_of
from mediant.models.opening import positions
from mediant.models.reference import load_reference, load_tokenizer
from mediant.models.running import hidden_states
from mediant.models.special_tokens import check_ids, vocabulary
from mediant.progress import SILENT, Progress
from mediant.statistics.calibration_text import held_out_windows, token_ids
from mediant.values import Model, Scorecard

WINDOWS = 20  # enough for a trend; published figures take at least 60
WINDOW = 512
MOST_TOKENS = 8192  # of a sentence, where neither the encoder nor its tokenizer says


@dataclass(frozen=True)
class Candidate:
    """What is judged: how to run it, the bytes of all its files, and its weights, tied ones counted once.

    `load` gives a module that is called like the reference's: `input_ids` to an object with `logits`, or with
    `last_hidden_state` for an encoder.
    """

    load: Callable[[], Any]
    bytes: int
    weights: int

    @property
    def bits_per_weight(self) -> float:
        """Every stored bit over every weight."""
        return 8 * self.bytes / self.weights


class Measurement(NamedTuple):
    """A scorecard and the figures of every scored token behind it."""

    scorecard: Scorecard
    comparison: divergence.Comparison


def evaluate(
    candidate: Candidate,
    reference: Model,
    text: Path | None = None,
    windows: int = WINDOWS,
    window: int = WINDOW,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Measurement:
    """Compares a language model with its reference (evaluation/divergence.py says how).

    Args:
        candidate: the model that is judged.
        reference: the model that it should equal; its tokenizer cuts the text.
        text: a UTF-8 file; None lets the reference write held-out text from `seed`.
        windows: windows to score, from the start of the text.
        window: tokens in a window; the second half is scored.
        seed: for held-out text only.
        progress: told after each window.

    Raises:
        UsageError: a window that the reference cannot take.
        TextError: the text cannot be read or is too short.
        ModelError: logits that are not finite, or vocabularies that differ.
    """
    return evaluate_all([candidate], reference, text, windows, window, seed, progress)[0]


def evaluate_all(
    candidates: Sequence[Candidate],
    reference: Model,
    text: Path | None = None,
    windows: int = WINDOWS,
    window: int = WINDOW,
    seed: int = 0,
    progress: Progress = SILENT,
) -> list[Measurement]:
    """Scores each candidate as `evaluate` does, with all of them in memory and one run of the reference."""
    tokens, source = scored_windows(reference, text, windows, window, seed, progress)
    networks = [logits_of(candidate.load()) for candidate in candidates]
    found = compare_all(logits_of(load_reference(reference)), networks, tokens, progress)
    return [Measurement(_card(c, f, source, tokens.shape), f) for c, f in zip(candidates, found, strict=True)]


def _card(candidate: Candidate, found: divergence.Comparison, source: str, shape: Sequence[int]) -> Scorecard:
    return Scorecard(
        kl=found.kl,
        kl_se=found.kl_se,
        perplexity=found.perplexity,
        reference_perplexity=found.reference_perplexity,
        top1=found.top1,
        bytes=candidate.bytes,
        bits_per_weight=candidate.bits_per_weight,
        windows=shape[0],
        window=shape[1],
        tokens=found.token_kl.size,
        text=source,
    )


def evaluate_encoder(
    candidate: Candidate,
    reference: Model,
    text: Path | None = None,
    sentences: int = WINDOWS,
    length: int = WINDOW,
    seed: int = 0,
    progress: Progress = SILENT,
) -> embeddings.EmbeddingScorecard:
    """Compares an encoder with its reference (evaluation/embeddings.py says how).

    Args:
        candidate: the encoder that is judged.
        reference: the encoder that it should equal.
        text: a UTF-8 file with a sentence on each line, all of which are used; None takes random tokens.
        sentences: random sequences, where there is no text.
        length: their tokens, at most the encoder's positions.
        seed: for random tokens only.
        progress: told after each sentence.

    Raises:
        TextError: the text cannot be read or has no sentence.
        ModelError: hidden states that are not finite, or of different width.
    """
    tokens, source = _sentences(reference, text, sentences, length, seed)
    networks = _states(load_reference(reference)), _states(candidate.load())
    found = embeddings.cosines(*networks, tokens, progress)
    return embeddings.EmbeddingScorecard(
        cosine=float(found.mean()),
        cosine_se=divergence.token_standard_error(found),
        bytes=candidate.bytes,
        bits_per_weight=candidate.bits_per_weight,
        sentences=len(found),
        text=source,
    )


def scored_windows(
    reference: Model, text: Path | None, windows: int, window: int, seed: int, progress: Progress
) -> tuple[torch.Tensor, str]:
    """Returns the windows [windows, window] of a text that are scored, and where they are from; without a text, a
    written one.

    Raises:
        UsageError, TextError: there are no such windows.
    """
    check(windows, window)
    limit = positions(reference)
    if limit is not None and window > limit:
        raise UsageError(f"A window of {window} tokens is longer than the model's {limit} positions.")
    if text is None:
        return held_out_windows(reference, windows, window, seed, progress), f"written by the reference, seed {seed}"
    return cut(token_ids(reference, text), windows, window), text.name


def _sentences(
    reference: Model, text: Path | None, sentences: int, length: int, seed: int
) -> tuple[list[torch.Tensor], str]:
    check(sentences, length)
    limit = positions(reference)
    if text is None:
        count, length = vocabulary(reference.path), min(length, limit or length)
        return embeddings.random_sentences(count, sentences, length, seed), f"random tokens, seed {seed}"
    tokenizer = load_tokenizer(reference)
    # Tokenizers without a limit say a huge number, which is no length.
    longest = min(tokenizer.model_max_length, limit or MOST_TOKENS)
    encoded = tokenizer(embeddings.lines(text), truncation=True, max_length=longest)["input_ids"]
    check_ids([token for ids in encoded for token in ids], reference.path, text=str(text))
    return [torch.tensor(ids) for ids in encoded], text.name


def _states(network: Any) -> embeddings.Embed:
    return partial(hidden_states, network)
