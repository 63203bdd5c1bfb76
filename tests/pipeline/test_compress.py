"""From a request to a folder: its size, its bytes, what it loads as, and what a plan can change about it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

import mediant
from mediant import files
from mediant.checkpoint.coding_sizes import bytes_by_coding
from mediant.errors import MediantError, PlanError, SizeError
from mediant.models.opening import open_model
from mediant.models.weights import WeightReader
from mediant.pipeline.calibrate import check_weights
from mediant.pipeline.choose_plan import plan_for
from mediant.pipeline.compress import begun, compress
from mediant.pipeline.request import CompressRequest
from mediant.planning.plan import Plan
from mediant.planning.recipe import recipe_names
from mediant.planning.size import FULLEST, parse_size
from mediant.progress import Silent
from mediant.values import RowSpan

# The least and the most that is on offer are met to the byte; between them, targets of any last digits.
TARGETS = {
    "least and between": (0, 0.77),
    "most and between": pytest.param((1, 0.21), marks=pytest.mark.slow),
}


def one_row_more(run, plan):
    """Every plan that gives one row of one tensor its next bit width."""
    following = dict(zip(run.recipe.bit_widths, run.recipe.bit_widths[1:], strict=False))
    for name, tensor in plan.tensors.items():
        for i, given in enumerate(tensor.runs):
            if given.bits in following:
                raised = [RowSpan(1, following[given.bits]), RowSpan(given.rows - 1, given.bits)]
                runs = (*tensor.runs[:i], *(r for r in raised if r.rows), *tensor.runs[i + 1 :])
                yield dataclasses.replace(plan, tensors={**plan.tensors, name: dataclasses.replace(tensor, runs=runs)})


@pytest.mark.parametrize("shares", TARGETS.values(), ids=TARGETS)
def test_sizes_are_met(shares, architecture, tiny_folder, text, feasible, tmp_path):
    smallest, largest = feasible(architecture)
    request = CompressRequest(str(tiny_folder(architecture)), tmp_path / "out", size=str(smallest), calibration=text)
    with begun(request) as run:
        for target in (smallest + int(share * (largest - smallest)) for share in shares):
            plan = plan_for(run, target)
            run.pack(plan)
            size = files.folder_bytes(request.out)
            assert size == run.folder_bytes(plan)
            assert size <= target
            if target in (smallest, largest):
                assert size == target
            # A model as small as these has no room for one more bit width in a tensor, with its table and its entry in
            # the manifest, where a large one would have used the bytes.
            assert size >= FULLEST * target or all(run.folder_bytes(more) > target for more in one_row_more(run, plan))


@pytest.mark.parametrize("end", ["largest", pytest.param("smallest", marks=pytest.mark.slow)])
@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_meets_its_named_sizes(recipe, end, tiny_folder, text, feasible, tmp_path):
    folder = str(tiny_folder("llama"))
    # What entropy coding takes at most is known only after measuring, so a size in the middle stands for it.
    size = feasible("llama", recipe)[end == "largest"] or parse_size("42%", open_model(folder))
    request = CompressRequest(folder, tmp_path / "out", size=str(size), recipe=recipe, calibration=text)
    assert compress(request).plan.recipe == recipe
    # A companded plan's smallest is known only to within the digits of its multipliers.
    exact = recipe not in ("cvxq", "entropy")
    assert (size if exact else FULLEST * size) <= files.folder_bytes(request.out) <= size


def test_one_byte_less_or_half_a_percent_more_is_refused(tiny_folder, text, feasible, tmp_path):
    smallest, largest = feasible("llama")
    for size in (smallest - 1, int(largest / FULLEST) + 1):
        request = CompressRequest(str(tiny_folder("llama")), tmp_path / "out", size=str(size), calibration=text)
        with pytest.raises(SizeError, match=rf"\({size} bytes\)"):
            compress(request)
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused_is_refused_before_any_work(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("mediant.pipeline.run.calibration_tokens", None)
    monkeypatch.setattr("mediant.pipeline.calibrate.collect", None)
    with pytest.raises(SizeError):
        compress(CompressRequest(str(tiny_folder("llama")), tmp_path / "out", size="1"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["llama_tied", "mixtral"])
def test_the_same_request_gives_the_same_bytes(name, compressed, tiny_folder, text, contents, tmp_path, monkeypatch):
    first = compressed(name)
    for count in ("1", "3"):
        monkeypatch.setenv("MEDIANT_THREADS", count)
        request = CompressRequest(
            str(tiny_folder(name)), tmp_path / count, size=str(first.plan.target_bytes), calibration=text
        )
        compress(request)
        assert contents(request.out) == contents(first.folder)


def test_the_comparison_of_folders_sees_a_bit(compressed, contents, tmp_path):
    copied = {name: (compressed("llama").folder / name).read_bytes() for name in contents(compressed("llama").folder)}
    damaged = bytearray(copied["mediant.safetensors"])
    damaged[-1] ^= 1
    for name, data in {**copied, "mediant.safetensors": bytes(damaged)}.items():
        (tmp_path / name).write_bytes(data)
    assert contents(tmp_path) != contents(compressed("llama").folder)


def test_another_seed_is_another_text(tiny_folder, tmp_path):
    model, size = str(tiny_folder("llama_tied")), "48kB"
    one, other = (compress(CompressRequest(model, tmp_path / str(seed), size=size, seed=seed)) for seed in (0, 1))
    assert (one.manifest.seed, other.manifest.seed) == (0, 1)
    assert one.manifest.calibration.text_fingerprint != other.manifest.calibration.text_fingerprint
    assert one.manifest.calibration.source == "written by the model, seed 0"


def test_it_loads_as_a_network_with_the_decoded_weights(architecture, compressed):
    checkpoint = compressed(architecture)
    loaded = mediant.load(checkpoint.folder)
    automatic = (AutoModelForCausalLM if checkpoint.model.causal else AutoModel).from_pretrained(checkpoint.folder)
    ids = torch.tensor([[5, 9, 200, 17, 3]])
    with torch.inference_mode():
        assert torch.equal(loaded(ids)[0], automatic(ids)[0])
    state = loaded.state_dict(keep_vars=True)
    for name, entry in checkpoint.tensors.items():
        assert np.array_equal(state[name].detach().numpy(), checkpoint.encoding(name).decode())
        assert all(state[alias] is state[name] for alias in entry.info.aliases)


@pytest.mark.parametrize("name", ["llama_tied", "gpt2", "gpt_oss"])
def test_more_bytes_come_closer_to_the_original(name, tiny_folder, text, feasible, tmp_path):
    smallest, largest = feasible(name)
    errors = []
    with begun(CompressRequest(str(tiny_folder(name)), tmp_path / "out", size=str(smallest), calibration=text)) as run:
        for target in (smallest, (smallest + largest) // 2, largest):
            checkpoint = run.pack(plan_for(run, target))
            with WeightReader(run.model) as weights:
                errors.append(
                    sum(
                        float(np.square(weights.read(n) - checkpoint.weight(n), dtype=np.float64).sum())
                        for n in checkpoint.tensors
                    )
                )
    assert errors[0] > errors[1] > errors[2]


def saved(plan: Plan, file, edit=lambda data: None):
    data = json.loads(plan.to_json())
    edit(data)
    file.write_text(json.dumps(data), encoding="utf-8")
    return file


@pytest.mark.parametrize("recipe", ["default", "rtn"])
def test_a_saved_plan_gives_the_same_bytes(recipe, tiny_folder, text, feasible, contents, tmp_path):
    model, size = str(tiny_folder("llama")), str(sum(feasible("llama", recipe)) // 2)
    first = compress(CompressRequest(model, tmp_path / "first", size=size, recipe=recipe, calibration=text, seed=3))
    plan = saved(first.plan, tmp_path / "plan.json")
    # The plan says its recipe and its seed, so neither has to be given again.
    second = compress(CompressRequest(model, tmp_path / "second", plan=plan, calibration=text))
    assert contents(second.folder) == contents(first.folder)


def test_a_plan_can_be_edited_by_hand(compressed, tiny_folder, text, tmp_path):
    first = compressed("llama")
    name = "model.layers.1.mlp.up_proj.weight"

    def edit(data):
        data["tensors"][name]["runs"] = [[40, 8], [8, 5]]
        data["tensors"]["lm_head.weight"] = {"method": "cast", "dtype": "float32"}

    plan = saved(first.plan, tmp_path / "plan.json", edit)
    second = compress(CompressRequest(str(tiny_folder("llama")), tmp_path / "second", plan=plan, calibration=text))
    assert second.plan.tensors[name].runs == (RowSpan(40, 8), RowSpan(8, 5))
    with WeightReader(open_model(str(tiny_folder("llama")))) as weights:
        assert np.array_equal(second.weight("lm_head.weight"), weights.read("lm_head.weight"))
    for other in set(first.tensors) - {name, "lm_head.weight"}:
        assert np.array_equal(second.weight(other), first.weight(other))


NAME = "model.layers.0.mlp.up_proj.weight"
EDITS = {
    "another model": (lambda d: d.update(model_fingerprint="0" * 64), "made for another model"),
    "a tensor less": (lambda d: d["tensors"].pop(NAME), f"does not say what becomes of '{NAME}'"),
    "a tensor more": (lambda d: d["tensors"].update(x=d["tensors"][NAME]), "names an unknown tensor, 'x'"),
    "no such grid": (lambda d: d["tensors"][NAME].update(grid={"name": "golden"}), "no method 'golden' among the grid"),
    "no such scale": (lambda d: d["tensors"][NAME].update(scale={"name": "big"}), "no method 'big' among the scales"),
    "no such rounding": (lambda d: d["tensors"][NAME].update(rounding={}), "no method None among the rounding"),
    "rows that are not there": (lambda d: d["tensors"][NAME].update(runs=[[49, 3]]), "do not add up to its 48 rows"),
    "too deep": (lambda d: d["tensors"][NAME].update(runs=[[48, 9]]), "1 to 8 bits, not 9"),
    "a bit width in words": (lambda d: d["tensors"][NAME].update(runs=[[48, "3"]]), "not pairs of whole numbers"),
    "no type": (lambda d: d["tensors"]["model.norm.weight"].update(dtype="int8"), "cannot be cast to 'int8'"),
    "a vector quantized": (
        lambda d: d["tensors"].update({"model.norm.weight": d["tensors"][NAME]}),
        "is not a matrix, so it can only be cast",
    ),
    "scales of no bits": (lambda d: d["tensors"][NAME].update(scale_bits=0), "scales"),
    "a group of words": (lambda d: d["tensors"][NAME].update(group="64"), "'group' is '64', not a whole number"),
    "another version": (lambda d: d.update(version=3), "version 3"),
    "an older version": (lambda d: d.update(version=1), "had other names before it; plan again"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_plan_that_does_not_fit_is_refused(edit, compressed, tiny_folder, text, tmp_path):
    change, words = EDITS[edit]
    plan = saved(compressed("llama").plan, tmp_path / "plan.json", change)
    with pytest.raises(PlanError, match=words) as refusal:
        compress(CompressRequest(str(tiny_folder("llama")), tmp_path / "out", plan=plan, calibration=text))
    assert "\n" not in str(refusal.value)
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


def test_an_older_checkpoint_is_replaced_and_survives_a_refusal(compressed, tiny_folder, text, contents, tmp_path):
    out = tmp_path / "out"
    request = CompressRequest(str(tiny_folder("llama")), out, size="60kB", calibration=text)
    compress(request)
    before = contents(out)
    with pytest.raises(SizeError):
        compress(dataclasses.replace(request, size="1"))
    assert contents(out) == before
    compress(dataclasses.replace(request, size="50kB"))
    assert contents(out) != before
    assert files.folder_bytes(out) <= 50_000
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_the_work_folder_stays_after_a_stop_and_goes_after_an_error(tiny_folder, text, stopped, tmp_path):
    request = CompressRequest(str(tiny_folder("llama")), tmp_path / "out", size="60kB", calibration=text)
    stopped(request, lambda run: run.statistics)
    assert [entry.name for entry in tmp_path.iterdir()] == [".out.mediant-work"]
    with begun(request) as again:
        assert again.workspace.has("statistics")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MediantError), begun(request):
        raise MediantError
    assert list(tmp_path.iterdir()) == []


def test_other_sizes_share_the_measurements_and_other_texts_do_not(tiny_folder, text, stopped, tmp_path):
    request = CompressRequest(str(tiny_folder("llama")), tmp_path / "out", size="60kB", calibration=text)
    other_text = tmp_path / "other.txt"
    other_text.write_text(text.read_text(encoding="utf-8") + " and so on", encoding="utf-8")
    for changed, kept in (
        ({"size": "50kB"}, True),
        ({"recipe": "hqq"}, False),
        ({"calibration": other_text}, False),
        ({"resume": False}, False),
    ):
        stopped(request, lambda run: run.statistics)
        assert stopped(dataclasses.replace(request, **changed), lambda run: run.workspace.has("statistics")) is kept


class Recorder(Silent):
    def __init__(self):
        self.said, self.tracked = [], []

    def say(self, text):
        self.said.append(text)

    def track(self, items, what, total=None):
        self.tracked.append(what)
        yield from items


def test_progress_tells_what_is_done_once(tiny_folder, text, tmp_path):
    progress = Recorder()
    compress(CompressRequest(str(tiny_folder("llama")), tmp_path / "out", size="60kB", calibration=text), progress)
    assert progress.tracked[-4:] == [
        "Checking the weights",
        "Measuring sensitivity",
        "Measuring error curves",
        "Rounding weights",
    ]
    assert any(line.startswith("Plan: ") for line in progress.said)


def test_weights_are_looked_at_before_the_model_runs(tiny_folder):
    progress = Recorder()
    check_weights(open_model(str(tiny_folder("gpt2"))), progress)
    assert progress.tracked == ["Checking the weights"]


def test_the_other_coding_of_coded_numbers_is_counted(tiny_folder, text, feasible, tmp_path):
    size = feasible("llama_tied")[0]
    request = CompressRequest(
        str(tiny_folder("llama_tied")), tmp_path / "out", size=str(size), coding="entropy", calibration=text
    )
    checkpoint = compress(request)
    total = files.folder_bytes(request.out)
    found = bytes_by_coding(checkpoint, total)
    assert found["entropy"] == total < found["fixed"]
