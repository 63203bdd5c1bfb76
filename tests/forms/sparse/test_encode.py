"""Sparse tensors: decoded as encoded, in the bytes planned, with grids and without; feedback beats nearest."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mediant.errors import CheckpointError, PlanError
from mediant.forms import Encoding
from mediant.forms.cast.form import Cast
from mediant.forms.quantize.form import Quantize
from mediant.forms.sparse.encode import encode
from mediant.forms.sparse.form import Sparse
from mediant.methods.layer import Layer, Term
from mediant.values import RowSpan, TensorInfo

INFO = TensorInfo("w", (12, 64), "float32", "linear", "out_in")
CAST = Sparse(Cast(), pattern={"name": "n_of_m"}, score={"name": "sparsegpt"})
VALUES = Quantize(
    grid={"name": "uniform"},
    scale={"name": "exact"},
    rounding={"name": "babai"},
    runs=(RowSpan(5, 3), RowSpan(7, 4)),
    group=16,
    scale_bits=6,
)
GRID = dataclasses.replace(CAST, values=VALUES)


def quantized(**changes):
    return dataclasses.replace(GRID, values=dataclasses.replace(VALUES, **changes))


PLANS = [
    CAST,
    Sparse(Cast("bfloat16"), {"name": "unstructured", "sparsity": 0.9}, CAST.score),
    Sparse(Cast("float32"), {"name": "unstructured", "sparsity": 0.6, "scope": "matrix"}, CAST.score),
    dataclasses.replace(CAST, pattern={"name": "blocks", "height": 4, "width": 8}, score={"name": "wanda"}),
    GRID,
    dataclasses.replace(quantized(scale_bits=16, rounding={"name": "nearest"}), score={"name": "magnitude"}),
    quantized(grid={"name": "gaussian"}, group=20),
]


def layer(seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(200, 64)) @ generator.normal(size=(64, 64))
    matrix = generator.normal(size=INFO.shape).astype(np.float32)
    return Layer(matrix, (Term(np.ones(12), x.T @ x / 200),))


@pytest.mark.parametrize("plan", PLANS)
def test_it_decodes_to_what_was_pruned_in_the_bytes_planned(plan):
    found = encode(layer(), plan, INFO)
    encoding = Encoding(INFO, plan, found.parts, found.certificate)
    encoding.verify()
    assert np.array_equal(encoding.decode(), found.matrix)
    assert encoding.nbytes == plan.nbytes(INFO) == plan.nbytes(INFO, encoding.side)
    assert 0 < found.certificate.relative_error < 1
    damaged = {**found.parts, "positions": found.parts["positions"] ^ 255}
    if plan.pattern.get("sparsity") != 0.5 and plan.pattern["name"] != "blocks":
        with pytest.raises(CheckpointError, match="decoded"):
            dataclasses.replace(encoding, parts=damaged).verify()


def test_rounding_errors_are_spread_over_later_weights():
    given = layer()
    losses = {
        name: given.loss(encode(given, quantized(rounding={"name": name}), INFO).matrix)
        for name in ("babai", "nearest")
    }
    exact = given.loss(encode(given, dataclasses.replace(CAST, values=Cast("float32")), INFO).matrix)
    assert exact < losses["babai"] < losses["nearest"]


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (dataclasses.replace(CAST, pattern={"name": "n_of_m", "n": 2, "m": 5}), "64 columns"),
        (dataclasses.replace(CAST, pattern={"name": "blocks", "height": 5}), "divide"),
        (dataclasses.replace(GRID, pattern={"name": "unstructured", "scope": "matrix"}), "only cast"),
        (quantized(basis={"name": "rotation", "seed": 0}), "basis"),
        (dataclasses.replace(CAST, values=Cast("int8")), "int8"),
        (quantized(runs=(RowSpan(3, 3),)), "12 rows"),
    ],
)
def test_plans_that_do_not_fit_are_one_sentence(plan, words):
    with pytest.raises(PlanError, match=words):
        plan.nbytes(INFO)
