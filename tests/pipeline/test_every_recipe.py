"""What every recipe can be asked for: a size, a loss, a plan alone, and how long it takes."""

from __future__ import annotations

import pytest

from mediant import files
from mediant.pipeline.compress import begun
from mediant.pipeline.estimate import of
from mediant.pipeline.request import CompressRequest
from mediant.planning.recipe import recipe_names

QUICK = ("entropy", "cvxq", "svd-llm")
RECIPES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in recipe_names()]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_plan_alone_an_estimate_and_a_loss(recipe, tiny_folder, text, tmp_path, monkeypatch):
    for name, value in {"TRIALS": 1, "WINDOWS": 2, "WINDOW": 32}.items():
        monkeypatch.setattr(f"mediant.pipeline.search.{name}", value)
    monkeypatch.setattr("mediant.pipeline.estimate.FEWEST_WEIGHTS", 0)
    model, out = str(tiny_folder("llama")), tmp_path / "out"
    with begun(CompressRequest(model, out, size="42%", recipe=recipe, calibration=text)) as run:
        plan = run.plan()
        assert 0.9 * run.target() < run.folder_bytes(plan) <= run.target()
        assert of(run).startswith("This takes about ")
    assert not out.exists()
    with begun(CompressRequest(model, out, max_kl=5.0, recipe=recipe, calibration=text)) as run:
        plan = run.plan()
        run.pack(plan)
    assert files.folder_bytes(out) <= plan.target_bytes
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out"]
