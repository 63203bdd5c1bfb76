"""Nested codes: their tables, what their leading bits decode to, and that each bit width is nearly as good as alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mediant.errors import PlanError
from mediant.forms import Encoding
from mediant.forms.quantize.encode import quantize
from mediant.forms.quantize.form import Quantize
from mediant.forms.quantize.native import packed_matrix
from mediant.kernels.rotation import rotate
from mediant.methods.grids.nested import ALONE, Nested, readings
from mediant.methods.layer import prepare
from mediant.values import RowSpan, TensorInfo

ROWS, COLUMNS = 64, 96
INFO = TensorInfo("w", (ROWS, COLUMNS), "float32", "linear", "out_in")


def plan(name, bits):
    return Quantize(
        grid={"name": "nested" if name == "nested" else "gaussian"},
        scale={"name": "exact"},
        rounding={"name": name},
        runs=(RowSpan(ROWS, bits),),
        group=32,
        scale_bits=3,
        scale_signed=False,
        scale_steps=4,
        basis={"name": "rotation", "seed": 0},
    )


def layer(chosen):
    g = np.random.default_rng(0)
    mixed = (np.eye(COLUMNS) + g.normal(size=(COLUMNS, COLUMNS)) / 10) @ g.normal(size=(COLUMNS, 4 * COLUMNS))
    return prepare(
        g.normal(size=(ROWS, COLUMNS)).astype(np.float32), chosen.rotation, None, mixed @ mixed.T / (4 * COLUMNS)
    )


def losses(chosen, planes):
    """The predicted loss of the same codes at every number of planes."""
    there = layer(chosen)
    found = quantize(there, chosen)
    encoding = Encoding(INFO, chosen, found.parts, found.certificate)
    return [there.loss(rotate(encoding.decode(planes=p), 0)) for p in planes]


def test_every_bit_width_is_worth_its_bits():
    """None is as good as codes made for it alone, but each is better than those of one bit less."""
    together = losses(plan("nested", 4), (4, 3, 2))
    alone = {bits: losses(plan("babai", bits), (bits,))[0] for bits in (4, 3, 2)}
    for bits, ours in zip((4, 3, 2), together, strict=True):
        assert alone[bits] < ours
    assert together[0] < alone[3]
    assert together[1] < alone[2]


def test_leading_bits_of_plain_codes_are_refused_and_would_be_far_worse():
    chosen = plan("babai", 4)
    found = quantize(layer(chosen), chosen)
    encoding = Encoding(INFO, chosen, found.parts, found.certificate)
    with pytest.raises(ValueError, match="levels of their own"):
        encoding.decode(planes=2)
    # The same tables, rounded for the deepest reading alone.
    other = dataclasses.replace(chosen, grid={"name": "nested"})
    assert losses(other, (2,))[0] > 1.2 * losses(plan("nested", 4), (2,))[0]


def test_all_planes_are_the_whole_code_and_shorter_runs_are_read_whole():
    chosen = dataclasses.replace(plan("nested", 4), runs=(RowSpan(24, 2), RowSpan(40, 4)), basis={})
    found = quantize(layer(chosen), chosen)
    encoding = Encoding(INFO, chosen, found.parts, found.certificate)
    whole, three, two = (encoding.decode(planes=p) for p in (4, 3, 2))
    np.testing.assert_array_equal(whole, encoding.decode())
    np.testing.assert_array_equal(whole, found.matrix)
    np.testing.assert_array_equal(whole[:24], two[:24])
    assert not np.array_equal(whole[24:], three[24:])
    assert not np.array_equal(three[24:], two[24:])


def test_tables_together_err_as_the_page_says():
    x = np.linspace(-6, 6, 24001)
    density = np.exp(-x * x / 2) / np.exp(-x * x / 2).sum()
    table, weights = readings(4)
    step = 1 / 11.85
    costs = sum(a * np.square(x[:, None] - step * t) for a, t in zip(weights, table, strict=True))
    codes = costs.argmin(axis=1)
    decibels = [
        10 * np.log10(density @ np.square(x - step * t[codes]) / ALONE[bits])
        for t, bits in zip(table, (4, 3, 2), strict=True)
    ]
    np.testing.assert_allclose(decibels, [0.075, 0.05, 0.03], atol=0.01)


def test_steps_are_whole_for_kernels():
    for bits in (2, 3, 4):
        gaps = np.diff(Nested().levels(bits))
        units = gaps / (gaps.min() / np.rint(gaps.min() / np.gcd.reduce((gaps * 64).astype(np.int64)) * 64))
        assert (units == np.rint(units)).all()
        assert units.sum() <= (63 if bits == 4 else 31)


def test_other_grids_are_refused():
    chosen = dataclasses.replace(plan("nested", 4), grid={"name": "gaussian"})
    with pytest.raises((PlanError, ValueError), match="grid nested"):
        quantize(layer(chosen), chosen)


@pytest.mark.parametrize("planes", [4, 3, 2])
def test_kernels_read_the_same_leading_bits(planes):
    chosen = dataclasses.replace(plan("nested", 4), storage="nested")
    found = quantize(layer(chosen), chosen)
    encoding = Encoding(INFO, chosen, found.parts, found.certificate)
    x = np.random.default_rng(1).normal(size=(3, COLUMNS)).astype(np.float32)
    product = packed_matrix(encoding.plan, INFO, encoding.parts, encoding.side, planes).multiply(x, precise=True)
    exact = x.astype(np.float64) @ encoding.decode(planes=planes).T.astype(np.float64)
    # Activations have 15 bits beside their sign, relative to the largest of 32.
    size = np.abs(x).max() * np.abs(encoding.decode(planes=planes)).sum(axis=1).max()
    assert np.abs(product - exact).max() < 4 * size * 2.0**-15
    other = x.astype(np.float64) @ encoding.decode(planes=6 - planes if planes != 3 else 4).T.astype(np.float64)
    assert np.abs(product - other).max() > 4 * size * 2.0**-15
