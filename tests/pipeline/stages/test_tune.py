"""Tuning as a stage: the same size, what was learned in the file, nothing learned where it does not help."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import mediant
from mediant import files
from mediant.errors import PlanError, TextError, UsageError
from mediant.evaluation.divergence import compare
from mediant.models.head_in_pieces import logits_of
from mediant.models.opening import open_model
from mediant.models.reference import load_reference
from mediant.pipeline.compress import compress
from mediant.pipeline.request import CompressRequest
from mediant.planning.plan import Plan
from mediant.statistics.calibration_text import calibration_tokens


@pytest.fixture(scope="module")
def pair(tiny_folder, text, feasible, tmp_path_factory):
    """A tiny model at its smallest size, rounded, and rounded and tuned by the same plan."""
    folder = tmp_path_factory.mktemp("tuned")
    model, size = str(tiny_folder("llama_tied")), str(feasible("llama_tied")[0] + 2000)
    plain = compress(CompressRequest(model, folder / "plain", size=size, calibration=text))
    saved = folder / "plan.json"
    saved.write_text(dataclasses.replace(plain.plan, tune_steps=40).to_json())
    return plain, compress(CompressRequest(model, folder / "tuned", plan=saved, calibration=text))


def test_the_size_and_the_codes_stay(pair):
    plain, tuned = pair
    assert tuned.plan.tune_steps == 40
    assert files.folder_bytes(tuned.folder) == files.folder_bytes(plain.folder)
    changed = set()
    for name in plain.tensors:
        one, two = plain.encoding(name).parts, tuned.encoding(name).parts
        changed |= {part for part in one if not np.array_equal(one[part], two[part])}
    assert changed == {"row_scales", "data"}


def test_it_comes_closer_to_the_original(pair, tiny_folder, text):
    model = open_model(str(tiny_folder("llama_tied")))
    reference, windows = load_reference(model), calibration_tokens(model, text, 0).windows
    losses = [compare(logits_of(reference), logits_of(mediant.load(c.folder)), windows).kl for c in pair]
    assert losses[1] < losses[0]


def test_certificates_are_of_the_tuned_weights(pair, tiny_folder):
    _, tuned = pair
    original = load_reference(open_model(str(tiny_folder("llama_tied")))).state_dict()
    for name, entry in tuned.tensors.items():
        if entry.certificate is not None:
            w = original[name].double().numpy()
            error = np.square(w - tuned.weight(name)).sum() / np.square(w).sum()
            assert entry.certificate.relative_error == pytest.approx(error, rel=1e-3)


def test_minutes_become_steps_that_the_plan_keeps(tiny_folder, text, contents, tmp_path):
    model = str(tiny_folder("llama"))
    first = compress(CompressRequest(model, tmp_path / "first", size="60kB", calibration=text, tune=0.005))
    assert first.plan.tune_steps >= 1
    (tmp_path / "plan.json").write_text(first.plan.to_json())
    compress(CompressRequest(model, tmp_path / "second", plan=tmp_path / "plan.json", calibration=text))
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_what_does_not_help_is_not_kept(tiny_folder, text, tmp_path, monkeypatch):
    monkeypatch.setattr("mediant.methods.training.scale_tuning.RATE", 3.0)
    model = str(tiny_folder("llama"))
    plain = compress(CompressRequest(model, tmp_path / "plain", size="60kB", calibration=text))
    saved = tmp_path / "plan.json"
    saved.write_text(dataclasses.replace(plain.plan, tune_steps=12).to_json())
    tuned = compress(CompressRequest(model, tmp_path / "tuned", plan=saved, calibration=text))
    for name in plain.tensors:
        assert np.array_equal(plain.weight(name), tuned.weight(name))


def test_refusals(tiny_folder, text, tmp_path):
    with pytest.raises(UsageError, match="predicts tokens"):
        compress(CompressRequest(str(tiny_folder("bert")), tmp_path / "out", size="60%", tune=1, calibration=text))
    with pytest.raises(UsageError, match="minutes"):
        compress(CompressRequest(str(tiny_folder("llama")), tmp_path / "out", size="60kB", tune=-1, calibration=text))
    assert list(tmp_path.iterdir()) == []


def test_a_text_of_one_window_cannot_be_held_out(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("mediant.statistics.calibration_text.LEARNING_WINDOW", 4096)
    monkeypatch.setattr("mediant.statistics.calibration_text.positions", lambda model: None)
    monkeypatch.setattr("mediant.statistics.calibration_text.MOST_WINDOWS", 1)
    short = tmp_path / "short.txt"
    short.write_text("bees and foxes run " * 2000, encoding="utf-8")
    with pytest.raises(TextError, match="at least 2"):
        compress(
            CompressRequest(str(tiny_folder("llama")), tmp_path / "out", size="60kB", tune=0.001, calibration=short)
        )


def test_a_plan_says_a_sensible_number_of_steps(pair, tmp_path):
    data = json.loads(pair[0].plan.to_json())
    for steps in (-1, 10**6):
        with pytest.raises(PlanError, match="number of steps"):
            Plan.from_json(json.dumps({**data, "tune_steps": steps}))


def test_entropy_coded_files_are_tuned_too(tiny_folder, text, feasible, tmp_path):
    # At the least size of codes of a fixed length, entropy coding loses too little to be tuned.
    model, size = str(tiny_folder("llama_tied")), str(feasible("llama_tied")[0] - 4000)
    request = CompressRequest(model, tmp_path / "plain", size=size, coding="entropy", calibration=text)
    plain = compress(request)
    saved = tmp_path / "plan.json"
    saved.write_text(dataclasses.replace(plain.plan, tune_steps=40).to_json())
    tuned = compress(CompressRequest(model, tmp_path / "tuned", plan=saved, calibration=text))
    assert files.folder_bytes(tuned.folder) == files.folder_bytes(plain.folder)
    assert any(not np.array_equal(plain.weight(name), tuned.weight(name)) for name in plain.tensors)
