"""Factors as they are stored: known losses, quantized factors, a base, and plans that do not fit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mediant.errors import PlanError
from mediant.forms.cast.form import Cast
from mediant.forms.factors.encode import balanced, encode, nested_losses, refitted
from mediant.forms.factors.form import Factors
from mediant.forms.quantize.encode import quantize
from mediant.kernels.factor_product import factor_product
from mediant.methods.layer import Layer, Term, prepare
from mediant.methods.low_rank import Factors as Product
from mediant.methods.low_rank.truncated_svd import TruncatedSvd
from mediant.methods.low_rank.whitened_svd import WhitenedSvd
from mediant.planning.recipe import load_recipe
from mediant.values import LayerStatistics, RowSpan

ROWS, COLUMNS = 24, 32
CAST = Cast(dtype="float16")


def layer_of(seed=0, tied=False):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((400, COLUMNS)) @ generator.standard_normal((COLUMNS, COLUMNS)) / 4
    hessian = x.T @ x / len(x)
    head = {"head_square": np.diag(hessian).copy(), "head_fisher": generator.random(ROWS)} if tied else {}
    statistics = LayerStatistics(
        np.diag(hessian).copy() if not tied else generator.random(COLUMNS), np.zeros(COLUMNS), generator.random(ROWS),
        400, **head,
    )  # fmt: skip
    matrix = generator.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    return prepare(matrix, None, statistics, hessian)


def plan_of(rank=8, name="whitened_svd", left=CAST, right=CAST, base=None):
    return Factors(low_rank={"name": name}, rank=rank, left=left, right=right, base=base)


def quantized(rows, bits):
    return load_recipe("default").tensor_plan((RowSpan(rows, bits),))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("method", [TruncatedSvd(), WhitenedSvd()])
def test_losses_of_all_ranks_are_those_of_the_truncated_factors(method, tied):
    layer = layer_of(1, tied)
    joint = layer.joint()
    found = method.factors(layer.matrix.astype(np.float64), ROWS, joint.rows, joint.columns)
    losses = nested_losses(layer, found)
    assert len(losses) == ROWS + 1
    for rank in range(ROWS + 1):
        product = found.left[:, :rank] @ found.right[:rank]
        # The layer's loss takes a float32 approximation; the product is rounded to it.
        slack = 8 * losses[0] * np.finfo(np.float32).eps
        assert losses[rank] == pytest.approx(layer.loss(product.astype(np.float32)), rel=1e-5, abs=slack)
    # A wrong order of components would be seen.
    backwards = nested_losses(layer, Product(found.left[:, ::-1].copy(), found.right[::-1].copy()))
    assert backwards[ROWS // 2] > 1.1 * losses[ROWS // 2]


def test_the_joint_term_is_the_only_one_where_there_is_one():
    layer = layer_of(2)
    (term,) = layer.terms
    joint = layer.joint()
    np.testing.assert_allclose(joint.columns / np.trace(joint.columns), term.columns / np.trace(term.columns))
    np.testing.assert_allclose(joint.rows / joint.rows.sum(), term.rows / term.rows.sum())
    flat = Layer(layer.matrix, (Term(term.rows, np.diag(term.columns)), Term(term.rows, np.ones(COLUMNS))))
    assert flat.joint().columns.ndim == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("rank", [1, 7, ROWS])
def test_cast_factors_lose_what_the_rank_loses(dtype, rank):
    layer, cast = layer_of(3), Cast(dtype=dtype)
    joint = layer.joint()
    losses = nested_losses(
        layer, WhitenedSvd().factors(layer.matrix.astype(np.float64), ROWS, joint.rows, joint.columns)
    )
    found = encode(layer, plan_of(rank, left=cast, right=cast))
    epsilon = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24}[dtype]
    # Rounding both factors moves every term of the product by two epsilons at most.
    assert np.sqrt(layer.loss(found.matrix)) <= np.sqrt(losses[rank]) + 4 * rank * epsilon * np.sqrt(losses[0])
    assert found.certificate.weighted_error == pytest.approx(layer.loss(found.matrix) / losses[0], rel=1e-6)


def test_the_matrix_is_the_product_of_what_is_stored():
    found = encode(layer_of(4), plan_of(5))
    assert set(found.parts) == {"left.data", "right.data"}
    left, right = (found.parts[f"{side}.data"].astype(np.float32) for side in ("left", "right"))
    assert np.array_equal(found.matrix, factor_product(left, right))


def test_quantized_factors_come_close_to_unquantized_ones_as_bits_grow():
    layer = layer_of(5)
    losses = []
    for bits in (2, 4, 8):
        left, right = dataclasses.replace(quantized(ROWS, bits), basis={}), quantized(12, bits)
        losses.append(layer.loss(encode(layer, plan_of(12, left=left, right=right)).matrix))
    exact = layer.loss(encode(layer, plan_of(12)).matrix)
    assert losses[0] > losses[1] > losses[2] > 0.99 * exact
    assert losses[2] < 1.1 * exact


@pytest.mark.parametrize("seed", range(3))
def test_the_left_factor_fitted_anew_is_the_best(seed):
    layer = layer_of(seed)
    joint = layer.joint()
    target = layer.matrix.astype(np.float64)
    right = np.rint(2 * np.random.default_rng(seed).standard_normal((6, COLUMNS))).astype(np.float32)
    best = refitted(target, right, joint)

    def loss(left):
        return layer.loss((left @ right).astype(np.float32))

    generator = np.random.default_rng(9)
    for _ in range(20):
        assert loss(best + 1e-2 * generator.standard_normal(best.shape)) > loss(best)


@pytest.mark.parametrize("tied", [False, True])
def test_known_factors_of_a_higher_rank_give_the_same_parts(tied):
    layer, plan = layer_of(5, tied), plan_of(6)
    joint = layer.joint()
    known = WhitenedSvd().factors(layer.matrix.astype(np.float64), min(ROWS, COLUMNS), joint.rows, joint.columns)
    one, other = encode(layer, plan), encode(layer, plan, known=known)
    assert one.parts.keys() == other.parts.keys()
    for part, array in one.parts.items():
        np.testing.assert_array_equal(array, other.parts[part])


def test_a_residual_takes_error_away():
    layer = layer_of(6)
    base = quantized(ROWS, 2)
    alone = layer.loss(encode(layer, plan_of(1, "residual", base=base)).matrix)
    more = [layer.loss(encode(layer, plan_of(rank, "residual", base=base)).matrix) for rank in (4, 12)]
    plain = prepare(layer.matrix, base.rotation, None)
    assert alone < layer.loss(_decoded(layer, base))
    assert more[1] < more[0] < alone
    assert plain.matrix.shape == layer.matrix.shape


def _decoded(layer, plan):
    from mediant.kernels.rotation import rotate_back
    from mediant.methods.layer import in_basis

    return rotate_back(quantize(in_basis(layer, plan.rotation), plan).matrix, plan.basis["seed"])


def test_more_rounds_are_never_worse():
    layer, base = layer_of(7), quantized(ROWS, 2)
    losses = []
    for rounds in (1, 3):
        plan = dataclasses.replace(plan_of(6, base=base), low_rank={"name": "residual", "rounds": rounds})
        losses.append(layer.loss(encode(layer, plan).matrix))
    assert losses[1] <= losses[0]


def test_balancing_keeps_the_product():
    generator = np.random.default_rng(8)
    found = Product(1e4 * generator.standard_normal((5, 3)), 1e-3 * generator.standard_normal((3, 4)))
    found.left[:, 1] = 0
    even = balanced(found)
    np.testing.assert_allclose(even.product(), found.product(), rtol=1e-12, atol=1e-12)
    sizes = np.square(even.left).mean(0), np.square(even.right).mean(1)
    np.testing.assert_allclose(sizes[0][[0, 2]], sizes[1][[0, 2]])


def test_refusals():
    layer = layer_of(9)
    with pytest.raises(PlanError, match="no method 'fft' among the low_rank"):
        encode(layer, plan_of(2, "fft"))
    with pytest.raises(PlanError, match="does not say how"):
        encode(layer, plan_of(2, right=None))
    huge = dataclasses.replace(layer, matrix=layer.matrix * 1e12)
    with pytest.raises(PlanError, match="does not fit float16"):
        encode(huge, plan_of(2))
