import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from mediant.errors import ModelError, TextError, UsageError
from mediant.evaluation.divergence import compare
from mediant.evaluation.embeddings import cosines
from mediant.evaluation.scoring import Candidate, evaluate, evaluate_encoder, positions
from mediant.evaluation.windows import cut
from mediant.models.opening import open_model
from mediant.models.reference import load_reference, load_tokenizer
from mediant.statistics.calibration_text import calibration_tokens
from mediant.values import Model

Folder = Callable[[str], Path]
SENTENCES = "the quick brown fox\njumps over the lazy dog\n\nand runs away from 12 angry bees .\n"


@pytest.fixture(scope="module")
def llama(tiny_folder: Folder) -> Model:
    return open_model(str(tiny_folder("llama_tied")))


@pytest.fixture(scope="module")
def bert(tiny_folder: Folder) -> Model:
    return open_model(str(tiny_folder("bert")))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog , and the fox runs away . " * 40)
    return path


def shaken(model: Model, noise: float = 0.05) -> PreTrainedModel:
    network = copy.deepcopy(load_reference(model))
    generator = torch.Generator().manual_seed(5)
    for parameter in network.parameters():
        parameter.data += noise * torch.randn(parameter.shape, generator=generator)
    return network


def as_candidate(model: Model, network: PreTrainedModel) -> Candidate:
    return Candidate(lambda: network, bytes=1000, weights=model.weights)


def test_the_scorecard_is_that_of_the_protocol(llama: Model, text: Path) -> None:
    network = shaken(llama)
    card, found = evaluate(as_candidate(llama, network), llama, text, windows=4, window=32)
    ids = load_tokenizer(llama)(text.read_text(), add_special_tokens=False)["input_ids"]
    reference = load_reference(llama)
    expected = compare(lambda t: reference(input_ids=t).logits, lambda t: network(input_ids=t).logits, cut(ids, 4, 32))
    assert np.array_equal(found.token_kl, expected.token_kl)
    assert (card.kl, card.kl_se, card.top1) == (expected.kl, expected.kl_se, expected.top1)
    assert (card.perplexity, card.reference_perplexity) == (
        expected.perplexity, expected.reference_perplexity,
    )  # fmt: skip
    assert (card.windows, card.window, card.tokens, card.text) == (4, 32, 64, "text.txt")
    assert (card.bytes, card.bits_per_weight) == (1000, 8000 / llama.weights)
    assert card.kl > 0


def test_a_model_loses_nothing_against_itself(llama: Model, text: Path) -> None:
    card, _ = evaluate(as_candidate(llama, load_reference(llama)), llama, text, windows=2, window=16)
    assert (card.kl, card.kl_se, card.top1) == (0, 0, 1)
    assert card.perplexity == card.reference_perplexity


def test_without_a_text_the_reference_writes_one_that_is_not_calibration(llama: Model) -> None:
    network = shaken(llama)
    first, again, other = (
        evaluate(as_candidate(llama, network), llama, windows=3, window=16, seed=seed).scorecard for seed in (0, 0, 1)
    )
    assert first == again
    assert first.kl != other.kl
    assert first.text == "written by the reference, seed 0"
    reference = load_reference(llama)
    calibration = calibration_tokens(llama, None, 0, windows=3, window=16).windows
    on_calibration = compare(
        lambda t: reference(input_ids=t).logits, lambda t: network(input_ids=t).logits, calibration
    )
    assert on_calibration.kl != first.kl


def test_bad_texts_and_windows_are_refused(llama: Model, text: Path, tmp_path: Path) -> None:
    candidate = as_candidate(llama, load_reference(llama))
    with pytest.raises(TextError, match="--windows"):
        evaluate(candidate, llama, text, windows=10_000, window=32)
    with pytest.raises(TextError, match=r"missing\.txt"):
        evaluate(candidate, llama, tmp_path / "missing.txt", windows=1, window=32)
    with pytest.raises(UsageError, match="longer than the model's 128 positions"):
        evaluate(candidate, llama, text, windows=1, window=129)
    with pytest.raises(UsageError):
        evaluate(candidate, llama, None, windows=0, window=32)


def test_a_broken_candidate_is_said(llama: Model, text: Path) -> None:
    network = shaken(llama)
    next(network.parameters()).data[:] = math.nan
    with pytest.raises(ModelError, match="candidate's logits in window 0"):
        evaluate(as_candidate(llama, network), llama, text, windows=1, window=16)


def test_an_encoder_is_judged_sentence_by_sentence(bert: Model, tmp_path: Path) -> None:
    file = tmp_path / "sentences.txt"
    file.write_text(SENTENCES)
    network, reference = shaken(bert, 0.02), load_reference(bert)
    card = evaluate_encoder(as_candidate(bert, network), bert, file)
    tokenizer = load_tokenizer(bert)
    ids = [torch.tensor(tokenizer(line)["input_ids"]) for line in SENTENCES.splitlines() if line]
    expected = cosines(
        lambda t: reference(input_ids=t).last_hidden_state,
        lambda t: network(input_ids=t).last_hidden_state,
        ids,
    )
    assert card.cosine == expected.mean()
    assert math.isclose(card.cosine_se, expected.std(ddof=1) / math.sqrt(3), rel_tol=1e-12)
    assert (card.sentences, card.text, card.bytes) == (3, "sentences.txt", 1000)
    assert card.bits_per_weight == 8000 / bert.weights


def test_an_encoder_without_a_text_reads_random_tokens(bert: Model) -> None:
    network = shaken(bert)
    first, again, other = (
        evaluate_encoder(as_candidate(bert, network), bert, sentences=4, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first.cosine != other.cosine
    assert (first.sentences, first.text) == (4, "random tokens, seed 0")
    itself = evaluate_encoder(as_candidate(bert, load_reference(bert)), bert, sentences=4)
    assert 1 - itself.cosine <= 64 * np.finfo(float).eps


def test_a_long_sentence_is_cut_to_the_positions(bert: Model, tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("fox " * 5000)
    assert evaluate_encoder(as_candidate(bert, load_reference(bert)), bert, file).sentences == 1


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"max_position_embeddings": 128}, 128),
        ({"n_positions": 64}, 64),
        ({"text_config": {"max_position_embeddings": 32}}, 32),
        ({}, None),
    ],
)
def test_positions_are_read_from_any_configuration(llama: Model, config: dict, found: int | None) -> None:
    model = copy.copy(llama)
    object.__setattr__(model, "config", config)
    assert positions(model) == found
