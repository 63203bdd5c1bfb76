"""Statistics taken block by block against those of a whole pass."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import transformers

from mediant.models import head_in_pieces
from mediant.models.opening import open_model
from mediant.statistics.calibration_text import CalibrationText
from mediant.statistics.hessian import Accumulator, file_name
from mediant.statistics.sensitivity import BACKWARD_SHARE, Recorder, collect
from mediant.statistics.streamed import collect_streamed

# Two windows run backwards beside Hessians, and one is left over.
WINDOWS = BACKWARD_SHARE + 2


@pytest.fixture(scope="module")
def text():
    tokens = torch.randint(2, 300, (WINDOWS, 24), generator=torch.Generator().manual_seed(1))
    return CalibrationText(tokens, "random")


def fields(layers):
    """Every array of every layer by tensor and field; None where a layer has none."""
    return {
        (name, field.name): getattr(layer, field.name)
        for name, layer in layers.items()
        for field in dataclasses.fields(layer)
    }


def test_without_hessians_all_sums_are_those_of_a_whole_pass(tiny_folder, architecture, text, tmp_path):
    model = open_model(str(tiny_folder(architecture)))
    whole, (streamed, hessians) = collect(model, text), collect_streamed(model, text, tmp_path, hessian=False)
    expected, found = fields(whole.layers), fields(streamed.layers)
    assert expected.keys() == found.keys()
    for key, values in expected.items():
        assert np.array_equal(values, found[key]), key
    assert (whole.tokens, whole.text_fingerprint) == (streamed.tokens, streamed.text_fingerprint)
    assert not hessians.inputs
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["llama_tied", "opt", "qwen3_moe", "bert"])
def test_with_hessians_too_where_a_whole_pass_does_not_round_what_it_keeps(
    tiny_folder, name, text, tmp_path, monkeypatch
):
    # A whole pass keeps activations as bfloat16 until gradients need them; this one computes them again.
    monkeypatch.setattr(Recorder, "_held", lambda self, x: (False, x))
    model, accumulator = open_model(str(tiny_folder(name))), Accumulator()
    whole = collect(model, text, hessians=accumulator)
    stored = accumulator.store(tmp_path / "whole", whole.tokens)
    (tmp_path / "streamed").mkdir()
    streamed, hessians = collect_streamed(model, text, tmp_path / "streamed", hessian=True)
    assert hessians.inputs == stored.inputs
    for key in set(stored.inputs.values()):
        file = file_name(key)
        assert (tmp_path / "streamed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    expected, found = fields(whole.layers), fields(streamed.layers)
    assert expected.keys() == found.keys()
    for key, values in expected.items():
        assert np.array_equal(values, found[key]), key


@pytest.mark.parametrize(
    ("name", "with_hessians"),
    [("llama_tied", False), ("gemma2", False), ("gpt2", False), ("bert", False), ("opt", True), ("qwen3_moe", True)],
)
def test_a_large_vocabulary_takes_its_logits_in_pieces(tiny_folder, name, with_hessians, text, tmp_path, monkeypatch):
    monkeypatch.setattr(head_in_pieces, "WHOLE", 0)
    monkeypatch.setattr(head_in_pieces, "PIECE", 5 * 320)
    monkeypatch.setattr(Recorder, "_held", lambda self, x: (False, x))
    model = open_model(str(tiny_folder(name)))
    whole = collect(model, text, hessians=Accumulator() if with_hessians else None)
    asked: list[int] = []
    plain = head_in_pieces.HeadInPieces.logits
    note = lambda self, states: asked.append(states.shape[1]) or plain(self, states)  # noqa: E731
    monkeypatch.setattr(head_in_pieces.HeadInPieces, "logits", note)
    streamed, _ = collect_streamed(model, text, tmp_path, hessian=with_hessians)
    # Two positions of the trial; then, of every window that runs backwards, 24 in fives.
    assert not model.causal or set(asked) == {1, 5, 4}
    expected, found = fields(whole.layers), fields(streamed.layers)
    assert expected.keys() == found.keys()
    for key, values in expected.items():
        assert np.array_equal(values, found[key]), key


def test_threads_change_no_bit(tiny_folder, text, tmp_path, monkeypatch):
    model, found = open_model(str(tiny_folder("llama"))), []
    for threads in ("1", "3"):
        monkeypatch.setenv("MEDIANT_THREADS", threads)
        folder = tmp_path / threads
        folder.mkdir()
        statistics, _ = collect_streamed(model, text, folder, hessian=True)
        found.append((fields(statistics.layers), {f.name: f.read_bytes() for f in folder.iterdir()}))
    assert found[0][1] == found[1][1]
    assert all(np.array_equal(values, found[1][0][key]) for key, values in found[0][0].items())


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForSequenceClassification"])
def test_an_encoder_is_measured_below_its_head_however_large_that_is(kind, tmp_path, monkeypatch):
    settings = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    network = getattr(transformers, kind)(transformers.BertConfig(vocab_size=300, pad_token_id=1, **settings))
    network.save_pretrained(tmp_path / "model")
    model, text = open_model(str(tmp_path / "model")), CalibrationText(torch.arange(2, 26).reshape(2, 12), "random")
    plain = fields(collect(model, text).layers)
    monkeypatch.setattr(head_in_pieces, "WHOLE", 0)
    pieces, streamed = collect(model, text).layers, collect_streamed(model, text, tmp_path, hessian=False)[0].layers
    assert any(".attention." in name for name, _ in plain)
    for found in (fields(pieces), fields(streamed)):
        assert plain.keys() == found.keys()
        for key, values in plain.items():
            assert np.array_equal(values, found[key]), key
