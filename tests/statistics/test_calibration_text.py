"""Calibration text: the same for any number of threads, never the same as evaluation text."""

from __future__ import annotations

import pytest
import torch

from mediant.errors import TextError
from mediant.models.opening import open_model
from mediant.models.reference import load_tokenizer
from mediant.statistics.calibration_text import calibration_tokens, held_out_windows, sampled_windows, token_ids


@pytest.fixture(scope="module")
def model(tiny_folder):
    return open_model(str(tiny_folder("llama")))


def fresh(monkeypatch, tmp_path, name):
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path / name))


def test_threads_do_not_change_the_text(model, monkeypatch, tmp_path):
    texts = []
    for count in ("1", "2", "3"):
        fresh(monkeypatch, tmp_path, count)
        monkeypatch.setenv("MEDIANT_THREADS", count)
        texts.append(sampled_windows(model, 5, 12, 0, "calibration"))
    assert torch.equal(texts[0], texts[1])
    assert torch.equal(texts[0], texts[2])


def test_kept_text_is_the_written_text(model, monkeypatch, tmp_path):
    fresh(monkeypatch, tmp_path, "a")
    written = sampled_windows(model, 3, 8, 1, "calibration")
    assert torch.equal(written, sampled_windows(model, 3, 8, 1, "calibration"))


def test_seeds_and_streams_differ(model):
    one, other = (sampled_windows(model, 4, 16, seed, "calibration") for seed in (0, 1))
    held_out = held_out_windows(model, 4, 16, 0)
    assert one.shape == held_out.shape == (4, 16)
    assert not torch.equal(one, other)
    assert not torch.equal(one, held_out)


def test_first_tokens_are_greedy(model):
    text = sampled_windows(model, 3, 8, 0, "calibration")
    from mediant.models.reference import load_reference

    with torch.inference_mode():
        logits = load_reference(model)(input_ids=text).logits
    assert torch.equal(logits[:, :4].argmax(-1), text[:, 1:5])


def test_a_file_is_spread_evenly(model, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("the cat sat on the mat . " * 200, encoding="utf-8")
    ids = token_ids(model, file)
    text = calibration_tokens(model, file, 0, windows=4, window=10)
    assert text.windows.shape == (4, 10)
    assert text.windows[0].tolist() == ids[:10]
    whole = len(ids) // 10
    assert text.windows[-1].tolist() == ids[(whole - 1) * 10 : whole * 10]
    assert "text.txt" in text.source


def test_no_special_tokens_are_added(model, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("the cat", encoding="utf-8")
    assert token_ids(model, file) == load_tokenizer(model)("the cat", add_special_tokens=False)["input_ids"]


def test_a_text_that_is_too_short_says_what_is_needed(model, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("the cat", encoding="utf-8")
    with pytest.raises(TextError, match="needs at least 128"):
        calibration_tokens(model, file, 0)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00bad"])
def test_no_text(model, tmp_path, content):
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TextError, match=r"text\.txt"):
        calibration_tokens(model, file, 0)
