"""CVXQ from a model to its file: sizes are met, demands are re-estimated, a plan repeats it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mediant import files
from mediant.allocation import check_recipe, strategy_of
from mediant.errors import PlanError, UsageError
from mediant.forms.compand.demands import bit_widths
from mediant.forms.compand.measure import HINTS
from mediant.models.reference import load_reference
from mediant.pipeline.choose_plan import job_of
from mediant.pipeline.compress import begun
from mediant.pipeline.request import CompressRequest
from mediant.planning.recipe import load_recipe
from mediant.runtime.loading import load


@pytest.fixture
def request_for(tiny_folder, text, tmp_path):
    def make(name="llama", **more):
        return CompressRequest(str(tiny_folder(name)), tmp_path / "out", recipe="cvxq", calibration=text, **more)

    return make


def test_any_size_is_met_and_the_file_loads(request_for, contents):
    with begun(request_for(size="55kB")) as run:
        plan = run.plan()
        low, high = strategy_of(run.recipe).range(job_of(run))
        assert low < 55_000 < high
        run.pack(plan)
        forecast = run.folder_bytes(plan)
        demands = run.hints(plan)
    out = run.request.out
    assert files.folder_bytes(out) == forecast
    assert 0.99 * 55_000 < forecast <= 55_000
    assert {t.method for t in plan.tensors.values()} == {"compand", "cast"}
    network, original = load(out), load_reference(run.model)
    ids = torch.arange(20)[None]
    assert not torch.equal(network(input_ids=ids).logits, original(input_ids=ids).logits)
    used = np.concatenate(
        [bit_widths(demands[n], t.multiplier).ravel() for n, t in plan.tensors.items() if n in demands]
    )
    assert len(np.unique(used)) > 2
    # The plan alone repeats it.
    before = contents(out)
    saved = out.with_name("plan.json")
    saved.write_text(plan.to_json())
    with begun(dataclasses.replace(run.request, size=None, plan=saved)) as again:
        again.pack(again.plan())
    assert contents(out) == before


def test_gradients_are_taken_at_the_quantized_weights(request_for):
    with begun(request_for(size="50kB")) as run:
        planned = {name: t for name, t in run.plan().tensors.items() if t.method == "compand"}
        found = [
            HINTS.measure(
                run, {n: dataclasses.replace(t, sequences=4, rate=1.0, renewal=renewal) for n, t in planned.items()}
            )
            for renewal in (0, 4, 2)
        ]
    name = "model.layers.0.mlp.up_proj.weight"
    once, whole, renewed = (f[name].squares for f in found)
    np.testing.assert_array_equal(once, whole)
    assert np.abs(renewed / once - 1).max() > 0.01
    # What the gradients do not reach goes by calibration's Fisher.
    for other in ("model.embed_tokens.weight", "lm_head.weight"):
        np.testing.assert_array_equal(found[0][other].squares, found[2][other].squares)
    again = HINTS.from_bytes(HINTS.to_bytes(found[2]))
    for key, demand in found[2].items():
        for field, value in vars(demand).items():
            np.testing.assert_array_equal(getattr(again[key], field), value)


def test_parts_are_dropped_before_companding(request_for, tmp_path):
    file = tmp_path / "thin.yaml"
    file.write_text("description: thin\nstages:\n- drop_layers: {layers: [1]}\n- quantize: {recipe: cvxq}\n")
    with begun(dataclasses.replace(request_for(size="45kB"), recipe=str(file))) as run:
        plan = run.plan()
        checkpoint = run.pack(plan)
        assert plan.model_fingerprint == run.original.fingerprint
    assert plan.structure == ({"edit": "drop_layers", "layers": [1]},)
    assert not any(".layers.1." in name for name in checkpoint.tensors)


def test_tuning_is_refused_as_nothing_takes_it_up(request_for):
    with pytest.raises(UsageError, match="leave out --tune"), begun(request_for(size="50kB", tune=1.0)):
        pass


@pytest.mark.parametrize(
    ("said", "more"),
    [
        ("cluster: 0", ""),
        ("renewal: -1", ""),
        ("cluster: 9", "grid: {name: uniform}"),
        ("cluster: 9", "bit_widths: [2]"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(tmp_path, said, more):
    file = tmp_path / "wrong.yaml"
    file.write_text(f"description: wrong\nallocation: {{name: companding_rate, {said}}}\n{more}\n")
    with pytest.raises(PlanError, match="not usable"):
        check_recipe(load_recipe(str(file)))
