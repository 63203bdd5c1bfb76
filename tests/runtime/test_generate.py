"""Sampling, streaming and the two writers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mediant.errors import UsageError
from mediant.kernels import native
from mediant.runtime.choosing import choose
from mediant.runtime.decoder import Decoder
from mediant.runtime.generate import NativeWriter, TransformersWriter, text_pieces
from mediant.runtime.generation import GenerationRequest
from mediant.runtime.sampling import Sampler, Sampling, sampler

Folder = Callable[[str], Path]
needs_native = pytest.mark.skipif(native is None, reason="needs the native kernels")
PROMPT = [5, 17, 200, 31, 8, 90]

SAMPLINGS = [
    Sampling(),
    Sampling(temperature=1.0),
    Sampling(temperature=0.6, top_k=5),
    Sampling(temperature=1.3, top_p=0.7),
    Sampling(temperature=1.0, top_k=40, top_p=0.9, min_p=0.05, repetition_penalty=1.3),
    Sampling(temperature=0.9, top_p=0.0),
    Sampling(temperature=2.0, min_p=1.0),
]


@needs_native
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_native_sampler_is_its_reference(sampling: Sampling) -> None:
    rng = np.random.default_rng(3)
    ours, reference = sampler(sampling, 1000), Sampler(sampling, 1000)
    for seen in (np.int32([3, 5, 3]), np.arange(0, 1000, 3, dtype=np.int32)):
        ours.saw(seen)
        reference.saw(seen)
        for _ in range(50):
            logits = (4 * rng.standard_normal(1000)).astype(np.float32)
            assert ours.next(logits.copy()) == reference.next(logits)
        found, expected = ours.distribution(logits.copy()), reference.distribution(logits)
        # weights are float32 and off by a few units of it; sums of 1000 are too
        np.testing.assert_allclose(found, expected, rtol=32 * 2**-23)


def test_filters_keep_what_they_say() -> None:
    logits = np.log(np.float32([0.4, 0.3, 0.2, 0.1]))

    def kept(**settings: float) -> list[int]:
        return np.flatnonzero(Sampler(Sampling(temperature=1.0, **settings), 4).weights(logits)).tolist()  # type: ignore[arg-type]

    assert kept() == [0, 1, 2, 3]
    assert kept(top_k=3) == [0, 1, 2]
    assert kept(top_p=0.65) == [0, 1]
    assert kept(min_p=0.45) == [0, 1, 2]
    assert kept(top_k=2, top_p=0.5) == [0]  # 0.4 of the 0.7 that top-k leaves is over half


def test_draws_have_the_probabilities_of_the_logits() -> None:
    logits = np.log(np.float32([0.5, 0.25, 0.15, 0.1]))
    state = sampler(Sampling(temperature=1.0, seed=7), 4)
    counts = np.bincount([state.next(logits.copy()) for _ in range(4000)], minlength=4)
    expected = 4000 * np.array([0.5, 0.25, 0.15, 0.1])
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-square, 3 degrees of freedom: 0.1 %


@pytest.mark.parametrize("wrong", [{"top_p": 1.5}, {"temperature": -1}, {"repetition_penalty": 0}, {"top_k": -1}])
def test_impossible_samplings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="cannot be"):
        Sampling(**wrong)  # type: ignore[arg-type]


@needs_native
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, top_k=20, repetition_penalty=1.2, seed=4)])
def test_both_writers_write_the_same(
    sampling: Sampling, tiny_folder: Folder, tiny_network: Callable[[str], PreTrainedModel]
) -> None:
    request = GenerationRequest(max_tokens=30, sampling=sampling)
    ours = NativeWriter(Decoder.open(tiny_folder("qwen3"), threads=2, kv_bits=32))
    theirs = TransformersWriter(tiny_network("qwen3"))
    found = list(ours.write(PROMPT, request))
    assert found == list(theirs.write(PROMPT, request))
    assert len(found) == 30
    stop = frozenset({found[11]})
    short = found[: found.index(found[11]) + 1]
    for writer in (ours, theirs):
        assert (
            list(writer.write(PROMPT, GenerationRequest(max_tokens=30, sampling=sampling, stop_tokens=stop))) == short
        )
        assert len(list(writer.write([3] * 120, request))) == 8


@needs_native
def test_a_conversation_reads_only_what_is_new(tiny_folder: Folder) -> None:
    decoder = Decoder.open(tiny_folder("mistral"), threads=1, kv_bits=32, chunk=8)
    writer, request = NativeWriter(decoder), GenerationRequest(max_tokens=20)
    texts = [PROMPT, [*PROMPT, 4, 9, 9], [*PROMPT, 4, 7], [*PROMPT[:2], 4], [*PROMPT * 9, 3], PROMPT[:1], PROMPT]
    for text in texts:
        fresh = NativeWriter(decoder)
        assert list(writer.write(text, request)) == list(fresh.write(text, request))


def test_pieces_of_text_are_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "the café costs 12 € – really\nUser: no"
    ids = tokenizer(text).input_ids
    pieces = list(text_pieces(tokenizer, ids))
    assert "".join(pieces) == text
    assert all("�" not in piece for piece in pieces)
    stopped = list(text_pieces(tokenizer, iter(ids), ["\nUser:", "never"]))
    assert "".join(stopped) == text.partition("\nUser:")[0]


def test_one_function_chooses_and_says_why(tiny_folder: Folder) -> None:
    assert choose(tiny_folder("gpt2")).native is False
    if native is not None:
        assert choose(tiny_folder("llama")).native is True
        assert choose(tiny_folder("gpt2")).sentence() == (
            "transformers runs this model: its model_type 'gpt2' is not among gemma2, gemma3_text, llama, mistral, opt,"
            " qwen2, qwen3."
        )


def test_transformers_has_no_precision(tiny_network: Callable[[str], PreTrainedModel]) -> None:
    with pytest.raises(UsageError, match="Only the native"):
        next(TransformersWriter(tiny_network("gpt2")).write(PROMPT, GenerationRequest(precision=3)))
