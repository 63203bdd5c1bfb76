"""Structural edits in a plan: repeated bit by bit, shown, refused where they do not fit; edits that learn go on."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from mediant.checkpoint.reader import open_checkpoint
from mediant.cli.inspect import report
from mediant.errors import PlanError
from mediant.methods import structure
from mediant.models.opening import open_model
from mediant.pipeline.apply_edits import LearningContext, apply_edits
from mediant.pipeline.compress import compress
from mediant.pipeline.request import CompressRequest
from mediant.pipeline.workspace import Workspace
from mediant.planning.plan import Plan
from mediant.runtime.loading import load

DROP = {"edit": "drop_layers", "layers": [0]}


@pytest.fixture(scope="module")
def planned(tiny_folder, compressed, tmp_path_factory):
    """A plan with an edit, made from that of a checkpoint by hand."""
    plan = compressed("llama_tied").plan
    kept = {n.replace("layers.1.", "layers.0."): t for n, t in plan.tensors.items() if "layers.0." not in n}
    file = tmp_path_factory.mktemp("plan") / "plan.json"
    file.write_text(dataclasses.replace(plan, tensors=kept, structure=(DROP,), target_bytes=None).to_json())
    return file


def test_a_plan_with_edits_is_repeated_bit_by_bit(planned, tiny_folder, text, contents, tmp_path):
    for name in ("one", "two"):
        compress(CompressRequest(str(tiny_folder("llama_tied")), tmp_path / name, plan=planned, calibration=text))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    again = tmp_path / "plan.json"
    again.write_text(open_checkpoint(tmp_path / "one").plan.to_json())
    compress(CompressRequest(str(tiny_folder("llama_tied")), tmp_path / "three", plan=again, calibration=text))
    assert contents(tmp_path / "three") == contents(tmp_path / "one")
    assert {f.name for f in tmp_path.iterdir()} == {"one", "two", "three", "plan.json"}


def test_the_checkpoint_is_the_smaller_model_and_says_so(planned, tiny_folder, text, tmp_path):
    checkpoint = compress(
        CompressRequest(str(tiny_folder("llama_tied")), tmp_path / "out", plan=planned, calibration=text)
    )
    network = load(tmp_path / "out")
    assert network.config.num_hidden_layers == 1
    assert torch.isfinite(network(input_ids=torch.arange(9)[None]).logits).all()
    original = open_model(str(tiny_folder("llama_tied")))
    figures = report(checkpoint)
    assert figures["structure"] == [DROP]
    assert figures["original_weights"] == original.weights > figures["model"]["weights"]
    assert figures["model"]["fingerprint"] == original.fingerprint
    assert figures["coverage"]["complete"]


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        (["drop"], "object"),
        ([{"layers": [0]}], '"edit"'),
        ([{"edit": "nonesuch"}], "nonesuch"),
        ([{"edit": "drop_layers", "layer": 0}], "no parameter 'layer'"),
        ([{"edit": "drop_layers", "layers": [7]}], "0 to 1"),
        ([], "unknown tensor|does not say"),
    ],
)
def test_edits_that_do_not_fit_are_one_sentence(edits, words, planned, tiny_folder, text, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(json.loads(planned.read_text()) | {"structure": edits}))
    with pytest.raises(PlanError, match=words):
        compress(CompressRequest(str(tiny_folder("llama_tied")), tmp_path / "out", plan=plan, calibration=text))
    assert {f.name for f in tmp_path.iterdir()} == {"plan.json"}


def test_a_plan_says_its_edits_in_json(planned):
    plan = Plan.from_json(planned.read_text())
    assert plan.structure == (DROP,)
    assert Plan.from_json(plan.to_json()) == plan


class Louder:
    """An edit that learns, in two steps, to make a norm larger; it may be stopped after the first."""

    stop = False

    def train(self, student, teacher, windows, progress, state, keep):
        gain = state["gain"] if state else student.state_dict()["model.norm.weight"] + windows.sum()
        keep({"gain": gain})
        if self.stop:
            raise KeyboardInterrupt
        return {"model.norm.weight": gain + teacher.state_dict()["model.norm.weight"]}


def test_an_edit_that_learns_goes_on_where_it_was(tiny_folder, tmp_path, monkeypatch):
    original = open_model(str(tiny_folder("llama")))
    make = structure.edit_from
    monkeypatch.setattr(
        "mediant.pipeline.apply_edits.edit_from", lambda spec: Louder() if spec["edit"] == "louder" else make(spec)
    )
    edits = ({"edit": "louder"}, DROP)
    monkeypatch.setattr(Louder, "stop", True)
    with pytest.raises(KeyboardInterrupt):
        apply_edits(original, edits, LearningContext(original, lambda: torch.ones(1, 3), Workspace(tmp_path)))
    monkeypatch.setattr(Louder, "stop", False)
    context = LearningContext(original, lambda: torch.full((1, 3), 9.0), Workspace(tmp_path))
    model = apply_edits(original, edits, context)
    before = AutoModelForCausalLM.from_pretrained(original.path).state_dict()
    after = AutoModelForCausalLM.from_pretrained(model.path).state_dict()
    assert torch.equal(after["model.norm.weight"], before["model.norm.weight"] + 3 + before["model.norm.weight"])
    assert torch.equal(after["model.layers.0.mlp.up_proj.weight"], before["model.layers.1.mlp.up_proj.weight"])
