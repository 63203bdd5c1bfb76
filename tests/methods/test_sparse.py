"""Sparse tensors: decoded as encoded, in the bytes planned, with grids and without; feedback beats nearest."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mediant.checkpoint.decoding import check, decode
from mediant.errors import CheckpointError, PlanError
from mediant.kernels.part_shapes import form_of, payload_bytes
from mediant.methods.layer import Layer, Term
from mediant.methods.sparse import sparsify
from mediant.plans import Run, TensorPlan
from mediant.values import Encoding, TensorInfo

INFO = TensorInfo("w", (12, 64), "float32", "linear", "out_in")
CAST = TensorPlan("sparse", pattern={"name": "n_of_m"}, score={"name": "sparsegpt"})
GRID = dataclasses.replace(
    CAST,
    grid={"name": "uniform"},
    scale={"name": "exact"},
    rounding={"name": "babai"},
    runs=(Run(5, 3), Run(7, 4)),
    group=16,
    scale_bits=6,
)
PLANS = [
    CAST,
    dataclasses.replace(CAST, dtype="bfloat16", pattern={"name": "unstructured", "sparsity": 0.9}),
    dataclasses.replace(CAST, dtype="float32", pattern={"name": "unstructured", "sparsity": 0.6, "scope": "matrix"}),
    dataclasses.replace(CAST, pattern={"name": "blocks", "height": 4, "width": 8}, score={"name": "wanda"}),
    GRID,
    dataclasses.replace(GRID, scale_bits=16, rounding={"name": "nearest"}, score={"name": "magnitude"}),
    dataclasses.replace(GRID, grid={"name": "normal"}, group=20),
]


def layer(seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(200, 64)) @ generator.normal(size=(64, 64))
    matrix = generator.normal(size=INFO.shape).astype(np.float32)
    return Layer(matrix, (Term(np.ones(12), x.T @ x / 200),))


@pytest.mark.parametrize("plan", PLANS)
def test_it_decodes_to_what_was_pruned_in_the_bytes_planned(plan):
    found = sparsify(layer(), plan, INFO)
    encoding = Encoding(INFO, plan, found.parts, found.certificate)
    form = form_of(encoding)
    check(encoding, form)
    assert np.array_equal(decode(encoding), found.matrix)
    assert np.array_equal(decode(encoding, form), found.matrix)
    assert encoding.nbytes == payload_bytes(INFO, plan) == payload_bytes(INFO, plan, form)
    assert 0 < found.certificate.relative_error < 1
    damaged = {**found.parts, "positions": found.parts["positions"] ^ 255}
    if plan.pattern.get("sparsity") != 0.5 and plan.pattern["name"] != "blocks":
        with pytest.raises(CheckpointError, match="decoded"):
            check(dataclasses.replace(encoding, parts=damaged), form)


def test_rounding_errors_are_spread_over_later_weights():
    given = layer()
    losses = {
        name: given.loss(sparsify(given, dataclasses.replace(GRID, rounding={"name": name}), INFO).matrix)
        for name in ("babai", "nearest")
    }
    exact = given.loss(sparsify(given, dataclasses.replace(CAST, dtype="float32"), INFO).matrix)
    assert exact < losses["babai"] < losses["nearest"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pattern": {"name": "n_of_m", "n": 2, "m": 5}}, "64 columns"),
        ({"pattern": {"name": "blocks", "height": 5}}, "divide"),
        ({"pattern": {"name": "unstructured", "scope": "matrix"}, "grid": {"name": "uniform"}}, "only cast"),
        ({"basis": {"name": "rotation", "seed": 0}}, "basis"),
        ({"dtype": "int8"}, "int8"),
        ({"grid": {"name": "uniform"}, "runs": (Run(3, 3),)}, "12 rows"),
    ],
)
def test_plans_that_do_not_fit_are_one_sentence(changes, words):
    with pytest.raises(PlanError, match=words):
        payload_bytes(INFO, dataclasses.replace(CAST, **changes))
