"""Entropy coding from a request to a folder: its size, its bytes, what it loads as, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import mediant
from mediant import files
from mediant.allocation.strategies.global_step import Curve, StepSearch, curves_from_json, curves_to_json
from mediant.checkpoint.reader import open_checkpoint
from mediant.errors import SizeError, UsageError
from mediant.pipeline.compress import compress
from mediant.pipeline.request import CompressRequest
from mediant.pipeline.sizes import sides
from mediant.planning.plan import Plan
from mediant.planning.size import FULLEST


@pytest.fixture
def asked(tiny_folder, text, tmp_path):
    """A request for a tiny model, coded by entropy."""
    return lambda name, size: CompressRequest(
        str(tiny_folder(name)), tmp_path / "out", size=str(size), coding="entropy", calibration=text
    )


@pytest.mark.parametrize("name", ["llama_tied", "gpt2", "mixtral", "bert"])
def test_sizes_are_met_and_weights_load(name, asked):
    for size in (48_000, 59_993):
        checkpoint = compress(asked(name, size))
        assert FULLEST * size <= files.folder_bytes(checkpoint.folder) <= size
    state = mediant.load(checkpoint.folder).state_dict(keep_vars=True)
    for tensor, entry in checkpoint.tensors.items():
        weight = checkpoint.weight(tensor)
        assert np.array_equal(state[tensor].detach().numpy(), weight)
        assert np.array_equal(checkpoint.encoding(tensor).decode(), weight)
        assert (entry.plan.method == "entropy_coded") == (entry.info.size >= 1024 and entry.info.layout != "none")


def test_there_is_one_step_but_for_tensors_that_calibration_never_saw(asked):
    steps = {t.step for t in compress(asked("llama", 48_000)).plan.tensors.values() if t.method == "entropy_coded"}
    assert len(steps) == 1


def test_more_bytes_lose_less(asked, tiny_folder):
    losses = []
    ids = torch.tensor([[5, 9, 200, 17, 3, 44, 101]])
    reference = mediant.pipeline.compress.open_model(str(tiny_folder("llama")))
    with torch.inference_mode():
        exact = mediant.models.reference.load_reference(reference)(ids).logits
        for size in (44_000, 52_000, 64_000):
            loaded = mediant.load(compress(asked("llama", size)).folder)
            losses.append(float((loaded(input_ids=ids).logits - exact).square().mean()))
    assert losses[0] > losses[1] > losses[2]


def test_the_same_request_gives_the_same_bytes_as_does_its_plan(asked, contents, tmp_path, monkeypatch):
    request = asked("mixtral", 50_000)
    first = compress(request)
    expected = contents(first.folder)
    file = tmp_path / "plan.json"
    file.write_text(first.plan.to_json())
    assert Plan.from_json(file.read_text()) == first.plan
    for count, change in (("3", {}), ("1", {"size": None, "coding": "fixed", "plan": file})):
        monkeypatch.setenv("MEDIANT_THREADS", count)
        again = compress(dataclasses.replace(request, out=tmp_path / count, **change))
        assert contents(again.folder) == expected


def test_a_stopped_run_goes_on_and_leaves_nothing(asked, stopped, contents, tmp_path):
    request = asked("llama", 50_000)
    stopped(request, lambda run: sides(run, run.plan()))
    resumed = compress(request)
    assert contents(resumed.folder) == contents(compress(dataclasses.replace(request, out=tmp_path / "other")).folder)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other", "out"]


def test_a_size_that_cannot_be_met_is_refused(asked, tmp_path, monkeypatch):
    with pytest.raises(SizeError, match="smallest") as refusal:
        compress(asked("llama", 30_000))
    assert refusal.value.smallest < 44_000
    with pytest.raises(SizeError, match="largest") as refusal:
        compress(asked("llama", 10_000_000))
    assert 44_000 < refusal.value.largest < 1_000_000
    # What the files beside the weights take alone is seen before any work.
    monkeypatch.setattr("mediant.pipeline.calibrate.collect", None)
    with pytest.raises(SizeError, match="smallest"):
        compress(asked("llama", 1000))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"recipe": "hqq"}, {"size": None, "plan": Path("plan.json")}, {"coding": "morse"}])
def test_entropy_coding_is_a_recipe_of_its_own(asked, change):
    with pytest.raises(UsageError, match="--coding"):
        dataclasses.replace(asked("llama", 50_000), **change).check()


def test_a_damaged_stream_is_refused_in_one_sentence(asked):
    folder = compress(asked("llama", 50_000)).folder
    data = bytearray((folder / "mediant.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "mediant.safetensors").write_bytes(bytes(data))
    checkpoint = open_checkpoint(folder)
    with pytest.raises(mediant.errors.CheckpointError, match="damaged"):
        list(checkpoint.state())


def curve(weights=1000, scale=1.0):
    return Curve("w", weights, scale, (0.0, 1.0, 5.0), (3000.0, 2000.0, 0.0), (1.0, 4.0, 50.0))


def test_curves_come_back():
    assert curves_from_json(curves_to_json([curve(), curve(7, 0.5)])) == [curve(), curve(7, 0.5)]


def test_a_curve_goes_on_by_a_bit_for_every_octave():
    assert [curve().bits_at(d) for d in (-1, 0, 0.5, 3, 6)] == [4000, 3000, 2500, 1000, 0]


@pytest.mark.parametrize("error", [0.7, 1.0, 1.3])
def test_the_search_mends_a_wrong_forecast(error):
    """Against folders whose bytes are wrong by a factor and some noise, the target is met all the same."""
    dropped = []
    big = Curve("w", 10**6, 1.0, (0.0, 1.0, 5.0), (3e6, 2e6, 0.0), (1.0, 4.0, 50.0))

    def folder_bytes(step):
        noise = math.sin(1e6 * step)
        return int(1000 + error * big.bits_at(math.log2(step)) / 8 + 50 * noise)

    search = StepSearch([big], lambda steps, target, loss: steps["w"], folder_bytes, lambda plan: 1000, dropped.append)
    for target in (50_000, 200_000, 333_333, 600_000):
        found = search.plan(target)
        assert FULLEST * target <= folder_bytes(found) <= target
        assert found not in dropped
