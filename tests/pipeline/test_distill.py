"""Distilling as a command and as an edit: an ordinary folder, a history, the same bits after a stop, refusals."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from mediant import files
from mediant.errors import ModelError, PlanError, StorageError, UsageError
from mediant.methods.structure import Learner, edit_from
from mediant.methods.training.distillation import Distillation
from mediant.models.opening import open_model
from mediant.pipeline.compress import compress
from mediant.pipeline.distill import DistillRequest, distill
from mediant.pipeline.request import CompressRequest

FAST = Distillation(rate=5e-3)


@pytest.fixture(scope="module")
def spoilt(tiny_network, tokenizer, tmp_path_factory):
    """A student: the tiny model, off by random numbers, in half precision."""
    folder = tmp_path_factory.mktemp("students") / "spoilt"
    network = tiny_network("llama_tied")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    network.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def taught(spoilt, tiny_folder, text, tmp_path_factory):
    out = tmp_path_factory.mktemp("taught") / "out"
    lesson = DistillRequest(str(spoilt), str(tiny_folder("llama_tied")), out, steps=25, text=text, method=FAST)
    return lesson, distill(lesson)


def test_the_student_comes_closer_and_is_an_ordinary_model(taught, spoilt):
    lesson, found = taught
    assert found.kept
    assert found.kl_after < 0.7 * found.kl_before
    assert len(found.losses) == found.steps == 25
    plain = transformers.AutoModelForCausalLM.from_pretrained(lesson.out)
    assert plain.dtype == torch.float16
    shapes = [{t.name: (t.shape, t.dtype) for t in open_model(str(f)).tensors} for f in (spoilt, lesson.out)]
    assert shapes[0] == shapes[1]
    history = json.loads((lesson.out / "distillation.json").read_text())
    assert history["losses"] == list(found.losses)
    assert history["rate"] == FAST.rate


def test_the_same_command_gives_the_same_bytes(taught, contents, tmp_path):
    lesson, _ = taught
    again = DistillRequest(lesson.student, lesson.teacher, tmp_path / "again", steps=25, text=lesson.text, method=FAST)
    distill(again)
    assert contents(again.out) == contents(lesson.out)


def test_a_killed_run_goes_on_with_the_same_bytes(taught, contents, tmp_path, monkeypatch):
    lesson, _ = taught
    again = DistillRequest(lesson.student, lesson.teacher, tmp_path / "again", steps=25, text=lesson.text, method=FAST)
    monkeypatch.setattr("mediant.pipeline.distill.KEEP_SECONDS", 1e-6)
    kept = []

    def killed(path, data, write=files.write):
        write(path, data)
        if path.name == "state":
            kept.append(path)
            if len(kept) == 7:
                raise KeyboardInterrupt

    monkeypatch.setattr("mediant.files.write", killed)
    with pytest.raises(KeyboardInterrupt):
        distill(again)
    assert not again.out.exists()
    distill(again)
    assert len(kept) == 24
    assert contents(again.out) == contents(lesson.out)


def test_what_does_not_help_is_not_kept(taught, tmp_path):
    lesson, _ = taught
    wild = DistillRequest(
        lesson.student, lesson.teacher, tmp_path / "o", steps=1, text=lesson.text, method=Distillation(rate=0.9)
    )
    assert not distill(wild).kept
    one, two = (transformers.AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (lesson.student, wild.out))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_minutes_become_steps(taught, tmp_path):
    lesson, _ = taught
    found = distill(DistillRequest(lesson.student, lesson.teacher, tmp_path / "o", minutes=0.002, text=lesson.text))
    assert found.steps >= 1


def test_a_compressed_student_becomes_an_ordinary_model(taught, text, feasible, tmp_path):
    lesson, _ = taught
    size = str(feasible("llama_tied")[0] + 3000)
    checkpoint = compress(CompressRequest(lesson.teacher, tmp_path / "small", size=size, calibration=text))
    found = distill(DistillRequest(str(checkpoint.folder), lesson.teacher, tmp_path / "o", steps=8, text=text))
    assert found.kl_after < found.kl_before
    plain = open_model(str(tmp_path / "o"))
    assert {t.dtype for t in plain.tensors} == {"float16"}
    assert plain.weights == open_model(lesson.teacher).weights


def test_it_is_an_edit_of_a_plan(tiny_folder, text, contents, tmp_path):
    """Behind an edit that spoils: the plan alone repeats both."""
    edits = [{"edit": "drop_layers", "layers": [0]}, {"edit": "distill", "steps": 30, "rate": 5e-3}]
    assert isinstance(edit_from(edits[1]), Learner)
    model = str(tiny_folder("llama"))
    plain = compress(CompressRequest(model, tmp_path / "plain", size="70kB", calibration=text))
    tensors = {n: t for n, t in json.loads(plain.plan.to_json())["tensors"].items() if ".layers.1." not in n}
    plan = json.loads(plain.plan.to_json()) | {"tensors": tensors, "structure": edits}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    first = compress(CompressRequest(model, tmp_path / "a", plan=tmp_path / "plan.json", calibration=text))
    compress(CompressRequest(model, tmp_path / "b", plan=tmp_path / "plan.json", calibration=text))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"structure": edits[:1]}))
    dropped = compress(CompressRequest(model, tmp_path / "c", plan=tmp_path / "plan.json", calibration=text))
    name = "model.layers.0.mlp.up_proj.weight"
    assert (first.weight(name) != dropped.weight(name)).any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"steps": None}, UsageError, "exactly one"),
        ({"minutes": 1.0}, UsageError, "exactly one"),
        ({"steps": 0}, UsageError, "--steps is 0"),
        ({"steps": None, "minutes": -1.0}, UsageError, "--minutes is -1"),
        ({"batch": 0}, UsageError, "--batch is 0"),
        ({"method": Distillation(alpha=1.5)}, PlanError, "alpha from 0 to 1"),
        ({"method": Distillation(lora_rank=-1)}, PlanError, "rank from 1"),
        ({"method": Distillation(temperature=0)}, PlanError, "positive temperature"),
    ],
)
def test_refusals(taught, tmp_path, change, error, message):
    lesson, _ = taught
    given = {"student": lesson.student, "teacher": lesson.teacher, "out": tmp_path / "o", "steps": 3} | change
    with pytest.raises(error, match=message):
        distill(DistillRequest(**given))
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_and_a_foreign_folder_are_refused(taught, tiny_folder, tmp_path):
    lesson, _ = taught
    with pytest.raises(ModelError, match="predict tokens"):
        distill(DistillRequest(lesson.student, str(tiny_folder("bert")), tmp_path / "o", steps=1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(StorageError, match="not a distilled model"):
        distill(DistillRequest(lesson.student, lesson.teacher, tmp_path / "full", steps=1))
