"""What every form promises, checked on the examples of every folder of forms/."""

from __future__ import annotations

import dataclasses
import importlib
import json

import numpy as np
import pytest

from mediant import forms
from mediant.errors import CheckpointError
from mediant.forms import Encoding
from mediant.forms.encoding import Original, encode, hints_of
from mediant.forms.parts import NUMPY_DTYPES
from mediant.kernels import native
from mediant.kernels.rotation import rotate_back
from mediant.values import LayerStatistics, TensorInfo

ROWS, COLUMNS = 16, 64
INFO = TensorInfo("w", (ROWS, COLUMNS), "float32", "linear", "out_in", "layers.0", 0)
EXAMPLES = [
    pytest.param(plan, id=f"{name}-{number}")
    for name in forms.names()
    for number, plan in enumerate(importlib.import_module(f"mediant.forms.{name}.form").EXAMPLES)
]
plans = pytest.mark.parametrize("plan", EXAMPLES)


def original():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, COLUMNS)) @ generator.normal(size=(COLUMNS, COLUMNS)) / 8
    statistics = LayerStatistics((x**2).mean(axis=0), x.mean(axis=0), generator.uniform(1, 2, ROWS), 300)
    return Original(INFO, generator.standard_normal((ROWS, COLUMNS)).astype(np.float32), statistics, x.T @ x / 300)


def encoded(plan):
    hints = hints_of(type(plan))
    return encode(original(), plan, None if hints is None else hints.neutral(plan, original().layer()))


@plans
def test_a_plan_comes_back_from_json(plan):
    again = forms.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert again.to_dict()["method"] == type(plan).__module__.split(".")[-2] == plan.method
    with pytest.raises(ValueError, match="'no_such_field' is unknown"):
        forms.from_dict({**plan.to_dict(), "no_such_field": 1})


@plans
def test_an_encoding_has_the_arrays_and_bytes_that_were_planned(plan):
    plan.check(INFO)
    found = encoded(plan)
    expected = {name: (NUMPY_DTYPES[dtype], shape) for name, (dtype, shape) in plan.parts(INFO, found.side).items()}
    assert {name: (array.dtype, array.shape) for name, array in found.parts.items()} == expected
    assert found.nbytes == plan.nbytes(INFO, found.side)
    assert plan.measured or plan.nbytes(INFO) == found.nbytes
    hints = hints_of(type(plan))
    if hints is not None:
        assert hints.side(plan, hints.neutral(plan, original().layer())) == found.side


@plans
def test_a_file_says_enough_to_read_it(plan):
    found = encoded(plan)
    said = plan.side_to_dict(found.side) if found.side is not None else {}
    assert set(said) == set(plan.side_fields)
    again = plan.side_from_dict(INFO, json.loads(json.dumps(said)), plan.parts(INFO, found.side))
    assert again == found.side
    np.testing.assert_array_equal(Encoding(INFO, plan, found.parts, None, again).decode(), found.decode())


@plans
def test_it_decodes_to_what_encoding_measured(plan):
    found, given = encoded(plan), original()
    found.verify()
    decoded = found.decode()
    assert (decoded.shape, decoded.dtype) == (INFO.shape, np.float32)
    assert np.isfinite(decoded).all()
    if found.certificate is not None:
        error = given.layer().relative_error(decoded)
        # A rotation turns errors without changing their squares; it is undone in float32.
        assert error == pytest.approx(
            found.certificate.relative_error, rel=1e-4 if plan.rotation is not None else 1e-12
        )
        assert 0 < error < 1
    else:
        np.testing.assert_allclose(decoded, given.values, rtol=2.0**-8)


@plans
def test_damage_is_refused(plan):
    found = encoded(plan)
    for name, array in found.parts.items():
        for wrong in (array.reshape(-1)[:-1], array.astype(np.int64)):
            with pytest.raises(CheckpointError):
                dataclasses.replace(found, parts={**found.parts, name: wrong}).verify()
        if array.dtype != np.uint8:
            spoilt = array.copy()
            spoilt.reshape(-1)[0] = 0x7F80 if array.dtype == np.uint16 else np.inf
            with pytest.raises(CheckpointError, match="not finite"):
                dataclasses.replace(found, parts={**found.parts, name: spoilt}).verify()
    with pytest.raises(CheckpointError):
        dataclasses.replace(found, parts={**found.parts, "more": np.zeros(1, np.uint8)}).verify()


@pytest.mark.skipif(native is None, reason="needs the native kernels")
@plans
def test_views_are_of_the_decoded_matrix(plan):
    found = encoded(plan)
    views = plan.views(INFO, found.parts, found.side)
    assert (views is not None) >= plan.mapped(INFO)
    if views is None:
        return
    assert (views.linears[0].rows, views.linears[0].columns) == (ROWS, COLUMNS)
    if views.packed:
        rows = np.stack([views.packed[0].row(i) for i in range(ROWS)])
        scale = float(np.abs(found.decode()).max())
        assert np.abs(rows - found.decode()).max() <= 64 * 2.0**-23 * scale * np.sqrt(COLUMNS)
    if plan.in_blocks(INFO, found.side):
        blocks = plan.blocks(INFO, found.parts, found.side)
        product = blocks.multiply(np.eye(COLUMNS, dtype=np.float32)).T
        np.testing.assert_array_equal(product, found.decode())


@plans
def test_rows_take_up_gains(plan):
    if not plan.tunable:
        return
    found = encoded(plan)
    gains = np.exp2(np.arange(ROWS) % 2).astype(np.float32)
    if plan.measured:
        gains = np.ones(ROWS, np.float32)
    changed = dataclasses.replace(found, parts=plan.with_row_gains(INFO, found.parts, gains))
    changed.verify()
    np.testing.assert_array_equal(changed.decode(), found.decode() * gains[:, None])


@plans
def test_codes_that_learn_stay_where_they_are(plan):
    if not plan.trainable or plan.grid.get("name") == "vq2d":
        return
    found = encoded(plan)
    codes = plan.codes(INFO, found.parts, found.side)
    again = plan.with_codes(INFO, found.parts, codes.codes)
    assert all(np.array_equal(again[name], array) for name, array in found.parts.items())
    zeros = 0 if codes.zeros is None else np.repeat(codes.zeros, codes.group, axis=1)[:, :COLUMNS]
    levels = np.concatenate([table[c] for table, c in zip(codes.tables, codes.codes, strict=True)])
    matrix = np.repeat(codes.scales, codes.group, axis=1)[:, :COLUMNS] * (levels - zeros)
    own = matrix if codes.rotation is None else rotate_back(matrix.astype(np.float32), codes.rotation)
    np.testing.assert_allclose(own, found.decode(), rtol=1e-6, atol=1e-6)


@plans
def test_words_can_be_printed(plan):
    words = plan.words()
    assert words.short.isprintable()
    assert words.full.isprintable()
    assert words.bit_width is None or words.bit_width.isprintable()
    json.dumps(dict(words.fields))
    assert plan.ledger in ("quantized", "pruned", "factored", "cast")


@plans
def test_needs_are_names(plan):
    assert plan.needs() <= {"hessian", "gradients", "diagonal", "input_square", "output_fisher"}
