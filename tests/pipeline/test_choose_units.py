"""Parts are chosen as their losses say; recipes with stages keep to their size, are repeated and taken up again."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from mediant.checkpoint.reader import open_checkpoint
from mediant.errors import PlanError, StorageError, TextError, UsageError
from mediant.methods.pruning.prunable_units import column_losses
from mediant.methods.structure._index_sets import from_text
from mediant.models.opening import open_model
from mediant.models.weights import WeightReader
from mediant.pipeline.choose_units import removed
from mediant.pipeline.compress import begun, compress
from mediant.pipeline.prune import EDITS, PruneRequest, prune
from mediant.pipeline.request import CompressRequest
from mediant.runtime.loading import load

COMMAND = [sys.executable, "-c", "from mediant.cli import main; main()"]
STAGES = """
description: four stages
stages:
  - prune: {neurons: 25%, heads: 1}
  - sparsify: {pattern: {name: n_of_m}, score: {name: sparsegpt}}
  - quantize: {recipe: default, rotate: false, storage: rows, group: 8}
  - tune: {steps: 2}
"""


def test_the_neurons_that_stay_are_worth_most(tiny_folder, text, tmp_path):
    request = CompressRequest(str(tiny_folder("llama")), tmp_path / "out", calibration=text)
    out = prune(request, PruneRequest({"neurons": "25%"}, score="magnitude"))
    network, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values())
    assert network.config.intermediate_size == 36
    with WeightReader(open_model(str(tiny_folder("llama")))) as weights:
        down = weights.read("model.layers.1.mlp.down_proj.weight")
    best = np.sort(np.argsort(-np.square(down, dtype=np.float64).sum(0), kind="stable")[:36])
    assert np.array_equal(network.state_dict()["model.layers.1.mlp.down_proj.weight"].numpy(), down[:, best])
    assert {f.name for f in tmp_path.iterdir()} == {"out"}


def test_all_parts_together_leave_an_ordinary_model(tiny_folder, text, tmp_path):
    wanted = PruneRequest({"neurons": "25%", "heads": "50%", "layers": 1, "hidden": "25%"})
    out = prune(CompressRequest(str(tiny_folder("llama_tied")), tmp_path / "out", calibration=text), wanted)
    network, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values())
    c = network.config
    assert (c.num_hidden_layers, c.intermediate_size, c.hidden_size) == (1, 36, 24)
    assert (c.num_attention_heads, c.num_key_value_heads, c.head_dim) == (2, 1, 8)
    assert torch.isfinite(network(input_ids=torch.arange(9)[None]).logits).all()


@pytest.mark.parametrize(
    ("more", "edits"),
    [
        ({}, ["drop_layers", "keep_neurons", "keep_heads", "refit", "keep_hidden"]),
        ({"score": "wanda", "refit": False}, ["drop_layers", "keep_neurons", "keep_heads", "keep_hidden"]),
        ({"score": "random"}, ["drop_layers", "keep_neurons", "keep_heads", "keep_hidden"]),
        ({"score": "random", "refit": True}, ["drop_layers", "keep_neurons", "keep_heads", "refit", "keep_hidden"]),
    ],
)
def test_thinned_parts_are_refitted_where_text_is_looked_at(more, edits, tiny_folder, text, tmp_path):
    wanted = PruneRequest({"hidden": "25%", "heads": 1, "neurons": "25%", "layers": 1}, **more)
    out = prune(CompressRequest(str(tiny_folder("llama")), tmp_path / "out", calibration=text), wanted)
    done = json.loads((out / EDITS).read_text())["structure"]
    assert [edit["edit"] for edit in done] == edits
    if "refit" in edits:
        assert done[3] == {"edit": "refit", "parts": ["neurons", "heads"], "layers": done[3]["layers"]}
        assert len(done[3]["layers"]) == 1
        assert done[3]["layers"] != done[0]["layers"]


def test_a_text_too_short_to_refit_from_is_refused(tiny_folder, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("a few words " * 20)
    request = CompressRequest(str(tiny_folder("llama")), tmp_path / "out", calibration=short)
    with pytest.raises(TextError, match=r"refitting pruned parts\) needs at least 2"):
        prune(request, PruneRequest({"neurons": "25%"}))
    assert {f.name for f in tmp_path.iterdir()} == {"short.txt"}
    assert prune(request, PruneRequest({"neurons": "25%"}, refit=False)) == tmp_path / "out"


def test_losses_of_parts_are_those_of_their_weights(tiny_folder, text, tmp_path):
    with begun(CompressRequest(str(tiny_folder("llama")), tmp_path / "out", size="40%", calibration=text)) as run:
        known = run.statistics.layers["model.layers.0.mlp.down_proj.weight"]
    matrix = np.random.default_rng(0).normal(size=(32, 48)).astype(np.float32)
    losses = column_losses("influence", matrix, known)
    by_hand = (
        0.5 * sum(known.output_fisher[i] * matrix[i, 5].astype(float) ** 2 for i in range(32)) * known.input_square[5]
    )
    assert losses[5] == pytest.approx(by_hand, rel=48 * np.finfo(np.float64).eps)
    with pytest.raises(PlanError, match="sparsegpt"):
        column_losses("sparsegpt", matrix, known)


def test_sparse_weights_are_stored_sparse_and_load(tiny_folder, text, tmp_path):
    out = prune(
        CompressRequest(str(tiny_folder("llama")), tmp_path / "out", calibration=text),
        PruneRequest(pattern={"name": "n_of_m"}),
    )
    network = load(out)
    for name, entry in open_checkpoint(out).tensors.items():
        weights = network.state_dict()[name]
        if entry.info.role == "linear":
            assert (weights.reshape(-1, 4) != 0).sum(1).max() <= 2
            assert entry.plan.method == "sparse"
        else:
            assert entry.plan.method == "cast"


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        (PruneRequest(), UsageError, "--neurons"),
        (PruneRequest({"neurons": "100%"}), None, ""),
        (PruneRequest({"neurons": "48"}), UsageError, "48"),
        (PruneRequest({"layers": "two"}), UsageError, "two"),
        (PruneRequest(pattern={"name": "n_of_m", "n": 5, "m": 4}), PlanError, "5 of 4"),
        (PruneRequest(pattern={"name": "n_of_m", "n": 1, "m": 7}), PlanError, "multiple of 7"),
    ],
)
def test_requests_that_cannot_be_met(wanted, error, words, tiny_folder, text, tmp_path):
    request = CompressRequest(str(tiny_folder("llama")), tmp_path / "out", calibration=text)
    if error is None:
        prune(request, wanted)  # one neuron is left
        with pytest.raises(StorageError, match="exists"):
            prune(request, wanted)
        return
    with pytest.raises(error, match=words):
        prune(request, wanted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("wanted", "left"), [("50%", 768), ("33%", 1024), (1, 1535), ("0.1%", 1536)])
def test_shares_leave_multiples(wanted, left):
    assert 1536 - removed(wanted, 1536, "neurons", 32) == left


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(STAGES)
    return file


def test_stages_keep_to_one_size_and_repeat(recipe, tiny_folder, text, contents, tmp_path):
    request = CompressRequest(
        str(tiny_folder("llama")), tmp_path / "one", size="40%", recipe=str(recipe), calibration=text
    )
    checkpoint = compress(request)
    target = checkpoint.plan.target_bytes
    size = sum(f.stat().st_size for f in (tmp_path / "one").iterdir())
    assert 0.99 * target <= size <= target
    plan = checkpoint.plan
    assert [edit["edit"] for edit in plan.structure] == ["keep_neurons", "keep_heads", "refit"]
    assert len(from_text(plan.structure[0]["neurons"][1], 48)) == 36
    assert plan.tune_steps == 2
    assert plan.tensors["model.layers.0.mlp.up_proj.weight"].method == "sparse"
    assert plan.tensors["model.embed_tokens.weight"].method == "quantize"
    (tmp_path / "plan.json").write_text(plan.to_json())
    compress(
        CompressRequest(str(tiny_folder("llama")), tmp_path / "two", plan=tmp_path / "plan.json", calibration=text)
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def kill_and_finish(moments, model, recipe, text, contents, tmp_path):
    def arguments(out):
        size = ("--size", "40%", "--recipe", recipe, "--calibration", text)
        return [*COMMAND, "compress", str(model), "--out", str(out), *map(str, size)]

    begun_at = time.monotonic()
    subprocess.run(arguments(tmp_path / "undisturbed"), check=True, capture_output=True)
    duration, generator, out = time.monotonic() - begun_at, random.Random(2), tmp_path / "out"
    for _ in range(moments):
        process = subprocess.Popen(arguments(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(generator.uniform(0.3, 1) * duration)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists():
            shutil.rmtree(out)
    subprocess.run(arguments(out), check=True, capture_output=True)
    assert contents(out) == contents(tmp_path / "undisturbed")
    assert {f.name for f in tmp_path.iterdir()} == {"undisturbed", "out", "recipe.yaml"}


def test_a_killed_recipe_goes_on(recipe, tiny_folder, text, contents, tmp_path):
    kill_and_finish(1, tiny_folder("llama"), recipe, text, contents, tmp_path)


@pytest.mark.slow
def test_killed_in_any_stage(recipe, tiny_folder, text, contents, tmp_path):
    kill_and_finish(8, tiny_folder("llama"), recipe, text, contents, tmp_path)
