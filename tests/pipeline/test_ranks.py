"""Ranks within a size: never above, hardly below, less loss for more bytes, and an ordinary network to load."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch

import mediant
from mediant import files
from mediant.allocation import check_recipe, strategy_of
from mediant.allocation.rank_choices import _Losses, choices_from_json, choices_to_json, plans, ranks
from mediant.errors import PlanError, SizeError
from mediant.forms.sparse.encode import encode
from mediant.methods.stack import prepare_any
from mediant.models.opening import open_model
from mediant.models.weights import WeightReader
from mediant.pipeline.choose_plan import job_of, plan_for
from mediant.pipeline.compress import begun, compress
from mediant.pipeline.request import CompressRequest
from mediant.planning.recipe import load_recipe
from mediant.values import TensorInfo

RECIPES = ["svd", "svd-llm", "nmf", "lqer", "factor-quantize"]


@pytest.fixture(scope="module")
def folders(tiny_folder, text, feasible, tmp_path_factory):
    """A tiny model by each recipe at a size in the middle of what it offers."""
    out = tmp_path_factory.mktemp("ranks")
    model = str(tiny_folder("llama_tied"))
    targets = {name: sum(feasible("llama_tied", name)) // 2 for name in RECIPES}
    return {
        name: (compress(CompressRequest(model, out / name, size=str(target), recipe=name, calibration=text)), target)
        for name, target in targets.items()
    }


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_size_is_kept_and_used(folders, recipe):
    checkpoint, target = folders[recipe]
    assert 0.995 * target <= files.folder_bytes(checkpoint.folder) <= target
    # Quantized products lose to quantized matrices here, and the choice is free.
    assert recipe == "factor-quantize" or any(e.plan.method == "factors" for e in checkpoint.tensors.values())


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_loads_as_an_ordinary_network(folders, recipe):
    checkpoint, _ = folders[recipe]
    network = mediant.load(checkpoint.folder)
    with torch.no_grad():
        assert torch.isfinite(network(input_ids=torch.arange(2, 12)[None]).logits).all()
    state = network.state_dict()
    for name in checkpoint.tensors:
        assert np.array_equal(state[name].numpy(), checkpoint.weight(name))


@pytest.mark.parametrize("recipe", ["svd-llm", "factor-quantize", "lqer"])
def test_more_bytes_predict_less_loss(tiny_folder, text, feasible, tmp_path, recipe):
    low, high = feasible("llama_tied", recipe)
    request = CompressRequest(
        str(tiny_folder("llama_tied")), tmp_path / "out", size=str(high), recipe=recipe, calibration=text
    )
    with begun(request) as run:
        losses = [plan_for(run, low + (high - low) * i // 6).predicted_loss for i in range(7)]
    assert all(a >= b for a, b in pairwise(losses))
    assert losses[0] > losses[-1]


def test_predicted_loss_is_that_of_what_is_stored(folders, tiny_folder, text, tmp_path):
    """Exactly known before anything is encoded, but for the rounding of factors to half precision."""
    checkpoint, target = folders["svd-llm"]
    request = CompressRequest(
        str(tiny_folder("llama_tied")), tmp_path / "o", size=str(target), recipe="svd-llm", calibration=text
    )
    with begun(request) as run:
        search = strategy_of(run.recipe).measured(job_of(run))
        curves = {c.tensor: c.options for c in search.choices}
        for name, entry in checkpoint.tensors.items():
            if entry.plan.method == "factors":
                (option,) = [o for o in curves[name] if o.plan == entry.plan]
                zeroing = option.loss / entry.certificate.weighted_error
                said = option.bytes - checkpoint.encoding(name).nbytes
                assert 300 < said < 2000
                assert zeroing > option.loss
        again = choices_from_json(choices_to_json(search.choices))
        assert again == list(search.choices)


def test_a_plan_repeats_it(folders, tiny_folder, text, contents, tmp_path):
    checkpoint, _ = folders["lqer"]
    (tmp_path / "plan.json").write_text(checkpoint.plan.to_json())
    request = CompressRequest(
        str(tiny_folder("llama_tied")), tmp_path / "again", plan=tmp_path / "plan.json", calibration=text
    )
    compress(request)
    assert contents(tmp_path / "again") == contents(checkpoint.folder)


@pytest.mark.parametrize("recipe", ["svd-llm", "lqer"])
def test_rows_of_products_take_up_gains(folders, recipe):
    """As tuning learns them; powers of two from 1 leave no rounding, so the comparison is exact."""
    checkpoint, _ = folders[recipe]
    factored = [name for name, entry in checkpoint.tensors.items() if entry.plan.method == "factors"]
    for name in factored:
        encoding = checkpoint.encoding(name)
        rows = encoding.info.matrix_shape[0]
        gain = np.exp2(np.random.default_rng(0).integers(0, 3, rows)).astype(np.float32)
        changed = dataclasses.replace(encoding, parts=encoding.plan.with_row_gains(encoding.info, encoding.parts, gain))
        assert np.array_equal(changed.decode(), encoding.decode() * gain[:, None])


def test_sizes_that_cannot_be_met(tiny_folder, text, tmp_path):
    for size in ("1", "1GB"):
        request = CompressRequest(
            str(tiny_folder("llama")), tmp_path / "o", size=size, recipe="svd-llm", calibration=text
        )
        with pytest.raises(SizeError), begun(request):
            pass
    assert list(tmp_path.iterdir()) == []


def offer(name):
    recipe = load_recipe(name)
    return strategy_of(recipe).offer(recipe)


def test_ranks_on_offer_end_where_a_whole_matrix_is_smaller():
    info = TensorInfo("w", (1536, 576), "float32", "linear", "out_in")
    offered = ranks(info, offer("svd-llm"))
    assert offered == sorted(set(offered))
    assert offered[-1] == 1536 * 576 // (1536 + 576)
    assert ranks(TensorInfo("w", (2, 3), "float32", "linear", "out_in"), offer("svd")) == [1]


@pytest.mark.parametrize("name", ["factor-quantize", "free"])
def test_whole_matrices_are_tiles_and_factors_rows(name):
    """Tiles would pad the columns of a left factor to 32, and no kernel multiplies by factors."""
    info = TensorInfo("w", (96, 80), "float32", "linear", "out_in")
    found = list(plans(info, offer(name)))
    assert {p.storage for p in found if p.method == "quantize"} == {"tiles"}
    factors = [f for p in found if p.method == "factors" for f in (p.left, p.right)]
    assert {f.storage for f in factors} == {"rows"}


def test_recipes_that_are_not_usable(tmp_path):
    for text, problem in (
        ("low_rank: {rank: 3}", "names no method"),
        ("low_rank: {name: svd}", "no method 'svd' among the low_rank"),
        ("low_rank: {name: truncated_svd}, factors: quantize", "the grid names no method"),
        ("low_rank: {name: truncated_svd}, factors: woven", "factors are none of"),
        ("rank: 3", "has no parameter 'rank'"),
    ):
        (tmp_path / "r.yaml").write_text(f"description: x\nallocation: {{name: ranks, {text}}}\n")
        with pytest.raises(PlanError, match=problem):
            check_recipe(load_recipe(str(tmp_path / "r.yaml")))


def test_encoders_are_factored_too(tiny_folder, text, feasible, tmp_path):
    target = sum(feasible("bert", "svd-llm")) // 2
    request = CompressRequest(
        str(tiny_folder("bert")), tmp_path / "b", size=str(target), recipe="svd-llm", calibration=text
    )
    assert open_model(str(tiny_folder("bert"))).causal is False
    assert any(e.plan.method == "factors" for e in compress(request).tensors.values())


def test_dense_sparse_and_thin_compete(tiny_folder, text, feasible, tmp_path):
    """More ways on offer never predict more loss; a sparse one is priced by what it stores and loses."""
    model, size = str(tiny_folder("llama_tied")), sum(feasible("llama_tied", "free")) // 2
    with begun(CompressRequest(model, tmp_path / "f", size=str(size), recipe="free", calibration=text)) as run:
        sizing, plan = strategy_of(run.recipe).measured(job_of(run)), run.plan()
        sparse = {c.tensor: [o for o in c.options if o.plan.method == "sparse"] for c in sizing.choices}
        layers = {i.name for i in run.model.tensors if i.role == "linear"}
        # Where a sparse way is better than all smaller ones it is on offer, and only for layers.
        assert {name for name, options in sparse.items() if options} <= layers
        only = [
            dataclasses.replace(
                c, options=tuple(o for o in c.options if o.plan.method in ("quantize", "cast")) or c.options
            )
            for c in sizing.choices
        ]
        assert plan.predicted_loss <= dataclasses.replace(sizing, choices=only).plan(size).predicted_loss
        checkpoint = run.pack(plan)
    assert files.folder_bytes(checkpoint.folder) <= size
    assert files.folder_bytes(checkpoint.folder) == run.folder_bytes(plan)


def test_a_sparse_way_loses_what_is_stored(tiny_folder, text, tmp_path):
    request = CompressRequest(str(tiny_folder("llama")), tmp_path / "s", size="60kB", recipe="free", calibration=text)
    with begun(request) as run:
        info = next(i for i in run.model.tensors if i.role == "linear")
        with WeightReader(run.model) as weights:
            matrix = weights.read(info.name)
        statistics, hessian = run.statistics.layers[info.name], run.hessians.of(info.name)
        layer = prepare_any(matrix, None, statistics, hessian)
        offered = offer("free")
        losses = _Losses(layer, offered)
        offered = [plan for plan in plans(info, offered) if plan.method == "sparse"]
        assert [plan.runs[0].bits for plan in offered] == list(run.recipe.bit_widths)
        for plan in offered[:2]:
            assert losses.of(plan) == pytest.approx(layer.loss(encode(layer, plan, info).matrix), rel=1e-6)
        assert losses.of(offered[0]) > losses.of(offered[1])
