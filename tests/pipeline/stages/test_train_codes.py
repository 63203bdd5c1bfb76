"""Training of codes as a stage: the same bytes, other codes, closer to the original; resumed with the same bits."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

import mediant
from mediant import files
from mediant.checkpoint.reader import open_checkpoint
from mediant.errors import CheckpointError, PlanError, UsageError
from mediant.forms import kept
from mediant.methods.training.quantization_aware import QuantizationAware
from mediant.models.opening import open_model
from mediant.models.reference import load_reference
from mediant.pipeline.compress import begun, compress
from mediant.pipeline.encode import encodings
from mediant.pipeline.request import CompressRequest
from mediant.pipeline.stages.train_codes import _Pupil, _stored

RECIPE = """
description: training
stages:
  - quantize: {recipe: %s}
  - train_codes: {block_steps: 6, code_steps: 4}
"""


# The default recipe with each weight by itself.
ALONE = "{description: alone, stages: [quantize: {recipe: default, grid: {name: gaussian_int}}]}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipe") / "alone.yaml"
    file.write_text(ALONE)
    return str(file)


def planned(plain, file, **steps):
    file.write_text(dataclasses.replace(plain.plan, **steps).to_json())
    return file


def at_rate(monkeypatch, rate):
    monkeypatch.setattr("mediant.pipeline.stages.train_codes.QuantizationAware", lambda: QuantizationAware(rate))


@pytest.fixture(scope="module")
def plain(tiny_folder, text, feasible, alone, tmp_path_factory):
    """A tiny model near its smallest size, rounded."""
    folder, size = tmp_path_factory.mktemp("rounded"), str(feasible("llama_tied")[0] + 2000)
    model = str(tiny_folder("llama_tied"))
    return compress(CompressRequest(model, folder / "plain", size=size, recipe=alone, calibration=text))


@pytest.fixture(scope="module")
def trained(plain, tiny_folder, text, tmp_path_factory):
    """The same plan with codes that learned, in blocks and together."""
    folder = tmp_path_factory.mktemp("trained")
    plan = planned(plain, folder / "plan.json", block_steps=12, code_steps=30)
    said = []
    request = CompressRequest(str(tiny_folder("llama_tied")), folder / "out", plan=plan, calibration=text)
    # So few steps only reach another code at a higher rate.
    at_rate(monkeymodule := pytest.MonkeyPatch(), 2e-2)
    progress = type("Said", (), {"say": said.append, "track": lambda s, items, *_: iter(items)})()
    found = compress(request, progress)
    monkeymodule.undo()
    return found, said


def test_codes_change_and_bytes_do_not(plain, trained, tiny_folder):
    checkpoint, said = trained
    assert (checkpoint.plan.block_steps, checkpoint.plan.code_steps) == (12, 30)
    # The manifest says how long codes learned; all parts are as long as before.
    more = len(',"code_training":{"block_steps":12,"code_steps":30}')
    manifests = [len((c.folder / "mediant.json").read_bytes()) for c in (plain, checkpoint)]
    assert manifests[1] == manifests[0] + more
    assert files.folder_bytes(checkpoint.folder) == files.folder_bytes(plain.folder) + more
    changed = {
        (entry.info.role, part)
        for name, entry in plain.tensors.items()
        for part, array in plain.encoding(name).parts.items()
        if not np.array_equal(array, checkpoint.encoding(name).parts[part])
    }
    # What changed was better on text that was not learned from, or it would not be there.
    assert changed == {("linear", "row_scales"), ("linear", "tiles")}
    before, after = (float(word.rstrip(",")) for line in said if "KL" in line for word in line.split()[6:9:2])
    assert after <= before


def test_what_is_loaded_is_what_was_judged(trained):
    checkpoint, _ = trained
    state = mediant.load(checkpoint.folder).state_dict()
    for name in checkpoint.tensors:
        torch.testing.assert_close(
            state[name].float(), torch.from_numpy(checkpoint.weight(name)).float(), rtol=2**-8, atol=1e-6
        )


def test_certificates_are_of_the_trained_weights(trained, tiny_folder):
    checkpoint, _ = trained
    original = load_reference(open_model(str(tiny_folder("llama_tied")))).state_dict()
    for name, entry in checkpoint.tensors.items():
        if entry.certificate is not None:
            w = original[name].double().numpy()
            error = np.square(w - checkpoint.weight(name)).sum() / np.square(w).sum()
            assert entry.certificate.relative_error == pytest.approx(error, rel=1e-3)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("recipe", [pytest.param("rtn", marks=SLOW), "hqq", pytest.param("gptq", marks=SLOW), "alone"])
def test_a_latent_that_did_not_learn_gives_the_same_parts(recipe, tiny_folder, text, feasible, alone, tmp_path):
    """Codes of any layout and bit width, scales and zero points survive: into a latent and back is the identity."""
    recipe = alone if recipe == "alone" else recipe
    size = str(sum(feasible("gpt2", recipe)) // 2)
    with begun(
        CompressRequest(str(tiny_folder("gpt2")), tmp_path / "out", size=size, recipe=recipe, calibration=text)
    ) as run:
        plan = run.plan()
        pupil = _Pupil(run, plan, {e.info.name: e for e in encodings(run, plan)})
        assert len(pupil.names) == 8
        for name in pupil.names:
            latent = pupil._latent(name)
            found = _stored(pupil.encodings[name], latent)
            again = dataclasses.replace(pupil.encodings[name], parts=found)
            assert np.array_equal(again.decode(), pupil.encodings[name].decode())
            # The latent computes with what is stored.
            x = torch.randn(5, latent.columns, generator=torch.Generator().manual_seed(0))
            torch.testing.assert_close(latent(x, pupil.owners[name].bias), pupil.owners[name](x), rtol=1e-4, atol=1e-5)


def test_a_stopped_run_goes_on_with_the_same_bytes(plain, tiny_folder, text, contents, tmp_path, monkeypatch):
    monkeypatch.setattr("mediant.pipeline.stages.train_codes.KEEP_EVERY", 3)
    plan = planned(plain, tmp_path / "plan.json", block_steps=3, code_steps=8, tune_steps=2)
    model = str(tiny_folder("llama_tied"))
    whole = compress(CompressRequest(model, tmp_path / "whole", plan=plan, calibration=text))
    from mediant.pipeline import workspace

    written, write = [], workspace.Workspace.write

    def stopping(self, name, data):
        write(self, name, data)
        written.append(name)
        if name in stops:
            stops.remove(name)
            raise KeyboardInterrupt

    monkeypatch.setattr(workspace.Workspace, "write", stopping)
    stops = ["model.layers.0-3", "latents-3-8", "codes-3-8"]
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            compress(CompressRequest(model, tmp_path / "out", plan=plan, calibration=text))
    compress(CompressRequest(model, tmp_path / "out", plan=plan, calibration=text))
    assert written.count("model.layers.0-3") == written.count("model.layers.1-3") == written.count("codes-3-8") == 1
    # Kept at step 3, before the stop, and at step 6, after it.
    assert written.count("latents-3-8") == 2
    assert contents(tmp_path / "out") == contents(whole.folder)


def test_what_does_not_help_is_not_kept(plain, tiny_folder, text, tmp_path, monkeypatch):
    at_rate(monkeypatch, 10.0)
    plan = planned(plain, tmp_path / "plan.json", block_steps=3, code_steps=3)
    found = compress(CompressRequest(str(tiny_folder("llama_tied")), tmp_path / "out", plan=plan, calibration=text))
    for name in plain.tensors:
        assert np.array_equal(plain.weight(name), found.weight(name))


@pytest.mark.parametrize("name", ["opt", pytest.param("gemma3", marks=SLOW), pytest.param("gpt2", marks=SLOW)])
def test_a_recipe_trains_codes_to_the_byte(name, tiny_folder, text, feasible, tmp_path):
    """Blocks of families that call them otherwise; the size holds with what the manifest says of it."""
    recipe = tmp_path / "trains.yaml"
    recipe.write_text(RECIPE % "default")
    size = str(sum(feasible(name)) // 2)
    found = compress(
        CompressRequest(str(tiny_folder(name)), tmp_path / "out", size=size, recipe=str(recipe), calibration=text)
    )
    assert (found.plan.block_steps, found.plan.code_steps) == (6, 4)
    assert files.folder_bytes(found.folder) <= int(size)
    assert files.folder_bytes(found.folder) > int(size) - 200


def test_refusals(plain, tiny_folder, text, tmp_path):
    recipe = tmp_path / "trains.yaml"
    recipe.write_text(RECIPE % "svd")
    with pytest.raises(PlanError, match="or factors"):
        compress(CompressRequest(str(tiny_folder("llama")), tmp_path / "out", size="60kB", recipe=str(recipe)))
    recipe.write_text(RECIPE % "rtn")
    with pytest.raises(UsageError, match="predicts tokens"):
        compress(
            CompressRequest(
                str(tiny_folder("bert")), tmp_path / "out", size="60kB", recipe=str(recipe), calibration=text
            )
        )
    cast = {n: kept("float16") for n in plain.plan.tensors}
    plan = tmp_path / "plan.json"
    plan.write_text(dataclasses.replace(plain.plan, tensors=cast, block_steps=1).to_json())
    with pytest.raises(PlanError, match="No codes"):
        compress(CompressRequest(str(tiny_folder("llama_tied")), tmp_path / "out", plan=plan, calibration=text))
    pairs = {n: dataclasses.replace(p, grid={"name": "vq2d"}) for n, p in plain.plan.tensors.items() if p.runs}
    assert any(run.bits == 2 for p in pairs.values() for run in p.runs)
    tensors = {**plain.plan.tensors, **pairs}
    plan.write_text(dataclasses.replace(plain.plan, tensors=tensors, block_steps=1).to_json())
    with pytest.raises(PlanError, match="in pairs"):
        compress(CompressRequest(str(tiny_folder("llama_tied")), tmp_path / "out", plan=plan, calibration=text))
    data = json.loads(plain.plan.to_json())
    plan.write_text(json.dumps({**data, "code_steps": -1}))
    with pytest.raises(PlanError, match="number of steps"):
        compress(CompressRequest(str(tiny_folder("llama_tied")), tmp_path / "out", plan=plan, calibration=text))


def test_a_manifest_that_counts_no_steps_is_refused(trained, tmp_path):
    checkpoint, _ = trained
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in checkpoint.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    manifest = folder / "mediant.json"
    manifest.write_bytes(
        manifest.read_bytes().replace(b'"block_steps":12,"code_steps":30', b'"block_steps":0,"code_steps":0')
    )
    with pytest.raises(CheckpointError, match="code_training"):
        open_checkpoint(folder)
