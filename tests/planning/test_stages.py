"""Stages become the fields of a recipe; wrong ones are one sentence."""

from __future__ import annotations

import pytest

from mediant.allocation import check_recipe
from mediant.errors import PlanError
from mediant.planning.recipe import load_recipe

WHOLE = """
description: all stages
stages:
  - prune: {neurons: 25%, layers: 1}
  - drop_layers: {layers: [0]}
  - sparsify: {pattern: {name: n_of_m}, score: {name: wanda}}
  - quantize: {recipe: default, rotate: false, storage: rows, group: 16}
  - tune: {steps: 7}
"""


def recipe(text, tmp_path):
    (tmp_path / "r.yaml").write_text(text)
    return load_recipe(str(tmp_path / "r.yaml"))


def test_stages_become_fields(tmp_path):
    found = recipe(WHOLE, tmp_path)
    default = load_recipe("default")
    assert list(found.structure) == [["prune", {"neurons": "25%", "layers": 1}], ["drop_layers", {"layers": [0]}]]
    assert (found.pattern, found.score, found.tune_steps) == ({"name": "n_of_m"}, {"name": "wanda"}, 7)
    assert (found.grid, found.bit_widths, found.group, found.rotate) == (
        {"name": "gaussian_int"},
        default.bit_widths,
        16,
        False,
    )
    assert found.tensor_plan((), "linear").method == "sparse"
    assert found.tensor_plan((), "embedding").method == "quantize"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  - tune: {steps: 7}", "  - quantize: {}", "order"),
        ("  - drop_layers: {layers: [0]}\n", "", None),
        ("recipe: default", "recipe: nonesuch", "nonesuch"),
        ("rotate: false", "rotate: true", "pattern"),
        ("storage: rows", "storage: tiles", "pattern"),
        ("neurons: 25%", "neuron: 25%", "'neuron'"),
        ("neurons: 25%", "neurons: 25%, refit: maybe", "refit of the stage prune is 'maybe'"),
        ("score: {name: wanda}", "scores: {name: wanda}", "just: pattern, score"),
        ("{steps: 7}", "{minutes: 7}", "just: steps"),
        ("{steps: 7}", "7", "mapping"),
        ("  - quantize: {recipe: default, rotate: false, storage: rows, group: 16}\n", "", "no stage quantizes"),
        ("stages:", "stages: 3\nother:", "not a list"),
    ],
)
def test_faults_are_one_sentence(old, new, words, tmp_path):
    text = WHOLE.replace(old, new)
    if words is None:
        assert len(recipe(text, tmp_path).structure) == 1
        return
    with pytest.raises(PlanError, match=words):
        check_recipe(recipe(text, tmp_path))
